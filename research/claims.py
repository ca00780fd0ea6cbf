"""`results/claims.md`: one section an experiment, written by the experiments themselves."""

import json
import re
from pathlib import Path

from research import report
from research.lock import held

HEAD = (
    "# Claims\n\nWritten by the experiments themselves: each finding with theory's band, what was measured and its "
    "95 % interval over seeds. *Supported*: the interval lies in the band. *Refuted*: the two are disjoint. "
    "*Inconclusive*: it straddles an end. *Not yet*: the trend is right and the bound lies beyond this budget. "
    "*Void*: no number: an oracle was not certified, rivals were not separated, or runs diverged. The interval is "
    "a BCa bootstrap over seeds, or, where a statement is about every seed, the range over all of them.\n"
)
PATIENCE = 10.0  # seconds that one experiment waits while another one writes its section


def write(path: Path, outcome: report.Outcome) -> None:
    """Put the experiment's section into `claims.md`, in place of its former one; the other sections stay.

    Raises Locked if another process has been writing the file for too long, and OSError if it cannot be written.
    """
    from research.store import replacing

    with held(path.with_name(f"{path.name}.lock"), say=report.plain, wait=PATIENCE):
        for abandoned in path.parent.glob(f".{path.name}.*.part"):
            abandoned.unlink()
        sections = _sections(path.read_text(encoding="utf-8")) if path.exists() else {}
        sections[f"{outcome.family}/{outcome.name}"] = _claim(outcome, path.parent).strip()
        body = "\n".join(f"\n<!-- {key} -->\n{text}\n" for key, text in sorted(sections.items()))
        with replacing(path) as temporary:
            temporary.write_text(HEAD + body, encoding="utf-8")


def _sections(text: str) -> dict[str, str]:
    """The sections of `claims.md` by family/name."""
    found = re.findall(r"<!-- (\S+) -->\n(.*?)(?=<!-- \S+ -->|\Z)", text, re.DOTALL)
    return {key: section.strip() for key, section in found}


def _claim(outcome: report.Outcome, root: Path) -> str:
    facts = json.loads(outcome.dataset.attrs["provenance"])
    runs, diverged = report.counted(outcome.dataset)
    spared = report.spared(outcome.dataset)
    linked = re.sub(
        r"arXiv[: ](\d{4}\.\d{4,5})",
        r"[arXiv:\1](https://arxiv.org/abs/\1)",
        report.section(outcome.documentation, "Source"),
    )
    rows = "\n".join(
        f"| {_cell(finding.statement)} | {report.band(finding.band)} | {report.measured(finding)} | {finding.status}"
        f"{': ' + _cell(finding.outlook) if finding.status == 'not yet' else ''} |"
        for finding in outcome.findings
    )
    return (
        f"## {outcome.family} / {outcome.name}\n\n"
        f"**Claim.** {report.section(outcome.documentation, 'Claim')}\n\n**Source.** {linked}\n\n"
        f"| statement | theory's band | measured [95 %] | status |\n|---|---|---|---|\n{rows}\n\n"
        f"[figure]({outcome.figure.relative_to(root)}) · {runs} runs, {diverged} diverged · "
        f"{facts['device']} · {facts['wall_seconds']:.0f} s{spared and f' · {spared}'}\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
