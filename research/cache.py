"""The user's folder for what can always be made anew: compiled programs, and the best numbers of lanes."""

import contextlib
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax


def keep_compilations() -> None:
    """Keep compiled programs in the user's cache folder, one folder a kind of processor (its code is native).

    JAX's own variables move it (JAX_COMPILATION_CACHE_DIR) or disable it (JAX_ENABLE_COMPILATION_CACHE=false).
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        config.update("jax_compilation_cache_dir", str(folder() / "compiled"))
        config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def folder() -> Path:
    """The user's folder for what can always be made anew, on this kind of processor."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "implicit-bias-laboratory" / _processor()


def _processor() -> str:
    """The kind of processor, by its instruction set: machines that share a home may differ in it."""
    facts = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256((facts + platform.processor()).encode()).hexdigest()[:8]}"


def remembered() -> dict[str, int]:
    """The numbers of lanes that were measured to be the best, by program and devices."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder() / "lanes.json").read_text(encoding="utf-8"))
    return {}


def remember(name: str, lanes: int) -> None:
    """Keep a measured number of lanes in the user's cache folder, unless caching is disabled."""
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return
    path = folder() / "lanes.json"
    temporary = path.with_name(f"lanes.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**remembered(), name: lanes}), encoding="utf-8")
        temporary.replace(path)
