import jax

from research import cache


def test_what_was_measured_is_remembered_in_the_users_cache(tmp_path, monkeypatch, request):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.remember("none", 4)
    assert cache.remembered() == {}  # the tests run without caches
    jax.config.update("jax_enable_compilation_cache", True)
    request.addfinalizer(lambda: jax.config.update("jax_enable_compilation_cache", False))
    cache.remember("one", 4)
    cache.remember("two", 16)
    assert cache.remembered() == {"one": 4, "two": 16}
    (path,) = tmp_path.rglob("lanes.json")
    path.write_text("broken {", encoding="utf-8")
    assert cache.remembered() == {}
