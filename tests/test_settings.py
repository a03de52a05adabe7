"""Configuration: what is read from file and environment, and what an operator is told when it is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import fastjsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htagweb_orchestrator import schema
from htagweb_orchestrator.configuration import key_lines
from htagweb_orchestrator.keys import APP_KEYS, APP_LIMIT_KEYS, DEFAULTS_IN_WORDS, KEYS, LIMIT_KEYS, PLUMBING, Key
from htagweb_orchestrator.kinds import Unexpected
from htagweb_orchestrator.quantities import duration_s, show_duration, show_size, size_bytes
from htagweb_orchestrator.settings import AppLimits, AppSettings, ConfigError, Settings

ROOT = Path(__file__).parent.parent


def load(folder: Path, toml: str = "", **environ: str) -> Settings:
    file = folder / "htagweb.toml"
    file.write_text(toml)
    return Settings.load({"HTAGWEB_CONFIG": str(file), **environ})


def problems(folder: Path, toml: str = "", **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(folder, toml, **environ)
    return caught.value.problems


def test_without_a_file_and_variables_all_is_default() -> None:
    assert Settings.load({}) == Settings()


def test_the_file_sets_values(tmp_path: Path) -> None:
    settings = load(tmp_path, 'idle_timeout = "90s"\nmemory = "1g"\ncpus = 0.5\ntrusted_proxies = ["10.0.0.0/8"]\n')
    assert (settings.idle_timeout_s, settings.memory_bytes, settings.cpus) == (90.0, 1024**3, 0.5)
    assert settings.trusted_proxies == ("10.0.0.0/8",)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path, 'memory = "1g"\npids = 100', HTAGWEB_MEMORY="512m", HTAGWEB_TRUSTED_PROXIES="::1, 10.0.0.1"
    )
    assert (settings.memory_bytes, settings.pids) == (512 * 1024**2, 100)
    assert settings.trusted_proxies == ("::1", "10.0.0.1")


def test_an_empty_variable_counts_as_absent(tmp_path: Path) -> None:
    assert load(tmp_path, 'memory = "1g"', HTAGWEB_MEMORY="").memory_bytes == 1024**3


def test_plain_numbers_are_seconds_and_bytes(tmp_path: Path) -> None:
    settings = load(tmp_path, "idle_timeout = 3\nmemory = 67108864")
    assert (settings.idle_timeout_s, settings.memory_bytes) == (3.0, 64 * 1024**2)


def test_an_app_has_its_own_limits_over_the_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, 'pids = 99\n[apps.counter]\ntitle = "Counting"\nmemory = "512m"', HTAGWEB_CPUS="2")
    assert settings.limits("counter") == AppLimits(pids=99, cpus=2.0, memory_bytes=512 * 1024**2)
    assert settings.limits("other") == AppLimits(pids=99, cpus=2.0)
    assert (settings.app("counter").title, settings.app("other")) == ("Counting", AppSettings())


def test_every_problem_is_told_with_line_key_and_expectation(tmp_path: Path) -> None:
    toml = 'memory = "lots"\n\nidel_timeout = "3s"\n[apps.counter]\npids = 3\n  memory = true\n'
    assert problems(tmp_path, toml, HTAGWEB_CPUS="x") == (
        'HTAGWEB_CPUS: expected a number such as 1 or 0.5, got "x"',
        'htagweb.toml:1: memory: expected a size such as 256m, 64k, 1g, got "lots"',
        "htagweb.toml:3: idel_timeout: unknown key; did you mean idle_timeout?",
        "htagweb.toml:5: apps.counter.pids: expected at least 16, got 3",
        "htagweb.toml:6: apps.counter.memory: expected a size such as 256m, 64k, 1g, got true",
    )


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ('memory = "31m"', "1: memory: expected at least 32m"),
        ("memory = nan", "1: memory: expected at least 32m"),
        ("memory = inf", "1: memory: expected at most 1024g"),
        ('idle_timeout = "0s"', "1: idle_timeout: expected at least 1s"),
        ('idle_timeout = "-5m"', "1: idle_timeout: expected a duration"),
        ('idle_timeout = "5 minutes"', "1: idle_timeout: expected a duration"),
        ("pids = 64.5", "1: pids: expected a whole number"),
        ("max_per_user = 0", "1: max_per_user: expected at least 1"),
        ('app_size = "17m"', "1: app_size: expected at most 16m"),
        ('dev = "maybe"', "1: dev: expected true or false"),
        ('public_url = "apps.example.org"', "1: public_url: expected an address such as https://apps.example.org"),
        ('public_url = "https://example.org/x"', "1: public_url: expected an address"),
        ('public_url = "https://u:p@example.org"', "1: public_url: expected an address"),
        ('public_url = "https://[::1"', "1: public_url: expected an address"),
        ('trusted_proxies = ["nginx"]', "1: trusted_proxies: expected a list of addresses"),
        ('trusted_proxies = ["10.0.0.1/8"]', "1: trusted_proxies: expected a list of addresses"),
        ('home = "Counter"', "1: home: expected the name of an app"),
        ('runtime = "run c"', "1: runtime: expected a name"),
        ('title = "x"', "1: title: belongs to one app: into a table [apps.<name>]"),
        ('apps_dir = "/x"', "1: apps_dir: is for the environment only: HTAGWEB_APPS_DIR"),
        ("apps = 3", "1: apps: expected tables such as [apps.counter]"),
        ("[apps]\ncounter = 3", "2: apps.counter: expected a table [apps.counter]"),
        ("[apps.Foo_Bar]", "1: apps.Foo_Bar: expected an app's name"),
        ('[apps.a]\naccess = "staff"', '2: apps.a.access: expected "public", "signed-in", or a list'),
        ('access = ["public", "group:a"]', '1: access: expected "public", "signed-in", or a list'),
        ("access = []", '1: access: expected "public", "signed-in", or a list'),
        ('access = "signed-in"', '1: access: nobody can sign in: set auth, or leave it "public"'),
        ('[apps.a]\naccess = ["group:a"]', '2: apps.a.access: nobody can sign in: set auth, or leave it "public"'),
        ('auth = "ldap"', "1: auth: expected one of: anonymous, password, oidc, header"),
        ('auth = "oidc"', '1: auth: with "oidc" oidc_issuer must be set'),
        ('auth = "header"', '1: auth: with "header" trusted_proxies must be set'),
        ('oidc_issuer = "id.example.org"', "1: oidc_issuer: expected the provider's address"),
        ('oidc_client_secret_file = "/no/such"', "1: oidc_client_secret_file: /no/such: No such file or directory"),
        ('[apps.a]\nentry = "no class"', "2: apps.a.entry: expected a class such as App"),
        ('[apps.a]\ntitle = "two\\nlines"', "2: apps.a.title: expected a text on one line"),
        ("[apps.a]\nmessage_size = 3", "2: apps.a.message_size: holds for all apps: it can't be set for one"),
        ("[apps.a]\nmemroy = 3", "2: apps.a.memroy: unknown key; did you mean memory?"),
        ('a = 1\nmemory = "256m', "2: not TOML: "),
        ("memory = 1\nmemory = 2", "2: not TOML: Cannot overwrite a value"),
        ("\n" + "a." * 100_000 + "a = 1", "2: a key with more than 50 dots"),
        ("memory = " + "[" * 50_000, "1: TOML that is nested too deep"),
        ("#" * 2**20 + "#", "1: more than 1024k of TOML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, toml: str, told: str) -> None:
    found = problems(tmp_path, toml)
    assert any(problem.startswith(f"htagweb.toml:{told}") for problem in found), found


def test_an_unknown_variable_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, HTAGWEB_MEMROY="1g") == ("HTAGWEB_MEMROY: unknown name; did you mean HTAGWEB_MEMORY?",)


def test_a_variable_of_another_part_is_left_to_it(tmp_path: Path) -> None:
    assert load(tmp_path, HTAGWEB_BIND="0.0.0.0", HTAGWEB_WORKERS="2") == Settings()


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file"):
        Settings.load({"HTAGWEB_CONFIG": str(tmp_path / "nowhere.toml")})


def test_a_folder_in_place_of_the_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; Docker makes one"):
        Settings.load({"HTAGWEB_CONFIG": str(tmp_path)})


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'home = "caf\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml: not UTF-8 \(byte 11\)"):
        Settings.load({"HTAGWEB_CONFIG": str(tmp_path / "latin.toml")})


@pytest.mark.parametrize(
    ("published_on", "dev"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.7:80", False),
        ("", False),
        ("localhost.example.org", False),
    ],
)
def test_development_comfort_is_for_loopback_only(tmp_path: Path, published_on: str, dev: bool) -> None:
    assert load(tmp_path, HTAGWEB_PUBLISHED_ON=published_on).dev is dev


@pytest.mark.parametrize(
    ("published_on", "public_url", "url"),
    [
        ("127.0.0.1:8001", "", "http://localhost:8001"),
        ("127.0.0.1", "", ""),
        ("0.0.0.0:8000", "", ""),
        ("127.0.0.1:8001", "https://apps.example.org", "https://apps.example.org"),
    ],
)
def test_an_operators_link_names_the_server_where_that_is_known(
    tmp_path: Path, published_on: str, public_url: str, url: str
) -> None:
    settings = load(tmp_path, HTAGWEB_PUBLISHED_ON=published_on, HTAGWEB_PUBLIC_URL=public_url)
    assert settings.own_url == url


def test_development_comfort_can_be_chosen(tmp_path: Path) -> None:
    assert load(tmp_path, "dev = false", HTAGWEB_PUBLISHED_ON="127.0.0.1").dev is False
    assert load(tmp_path, HTAGWEB_DEV="true", HTAGWEB_PUBLISHED_ON="0.0.0.0").dev is True


def test_gvisor_gets_the_processes_that_it_needs_itself(tmp_path: Path) -> None:
    assert load(tmp_path, 'runtime = "runsc"').limits("any").pids == 256
    assert problems(tmp_path, 'runtime = "runsc"\npids = 100\n[apps.a]\npids = 99') == (
        "htagweb.toml:2: pids: expected at least 256 with runtime runsc, got 100",
        "htagweb.toml:4: apps.a.pids: expected at least 256 with runtime runsc, got 99",
    )


def test_lines_are_found_whatever_form_a_key_takes() -> None:
    toml = '# one\na = 1\nb = [\n  1,\n]\n[apps]\nx.cpus = 2\n[apps."y"]\ntext = """\ncpus = 3\n"""\ncpus = 4\n'
    toml += "z = { cpus = 5 }\n"
    lines = key_lines(toml)
    assert (lines["a",], lines["b",], lines["apps",]) == (2, 3, 6)
    assert (lines["apps", "x", "cpus"], lines["apps", "y"], lines["apps", "y", "text"]) == (7, 8, 9)
    assert (lines["apps", "y", "cpus"], lines["apps", "y", "z", "cpus"]) == (12, 13)


@given(st.integers(0, 400 * 86400))
def test_a_shown_duration_is_near_the_real_one(seconds: int) -> None:
    shown = sum(duration_s(part) for part in show_duration(seconds).split())
    assert shown <= seconds < shown + 3600


@given(st.sampled_from([1, 1024, 1024**2, 1024**3]), st.integers(1, 1023))
def test_a_whole_size_is_shown_as_it_is_written(unit: int, count: int) -> None:
    assert size_bytes(show_size(unit * count)) == unit * count


@pytest.mark.parametrize("odd", ["", "\u2028", "\u0085"])
def test_lines_are_counted_as_editors_do(tmp_path: Path, odd: str) -> None:
    text = f'[apps.a]\r\ntitle = "one{odd}"\r\nenv = {{A = "b"}}\r\nmemory = "lots"\r\n'
    (problem,) = problems(tmp_path, text)
    assert problem.startswith("htagweb.toml:4: apps.a.memory:")


@pytest.mark.parametrize("text", ["9" * 400, str(2**63), f"{2**33}g"])
def test_a_size_that_no_kernel_counts_to_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        size_bytes(text)
    (problem,) = problems(tmp_path, f'memory = "{text}"')
    assert problem.startswith("htagweb.toml:1: memory: expected a size such as 256m")


def test_a_runtime_and_a_network_may_be_one_apps_own(tmp_path: Path) -> None:
    settings = load(tmp_path, '[apps.a]\nruntime = "runsc"\nnetwork = "apps-out"\n[apps.b]\npids = 100')
    assert (settings.limits("a").runtime, settings.limits("a").pids) == ("runsc", 256)
    assert settings.limits("a").network == "apps-out"
    assert (settings.limits("b").runtime, settings.limits("b").pids, settings.limits("b").network) == ("runc", 100, "")
    assert problems(tmp_path, '[apps.a]\nruntime = "runsc"\npids = 99') == (
        "htagweb.toml:3: apps.a.pids: expected at least 256 with runtime runsc, got 99",
    )


def test_an_app_says_how_it_talks(tmp_path: Path) -> None:
    settings = load(tmp_path, "[apps.a]\nhttp_only = true\n[apps.b]\nparano = true")
    assert (settings.app("a").http_only, settings.app("b").http_only) == (True, False)
    assert (settings.app("a").parano, settings.app("b").parano) == (False, True)
    (problem,) = problems(tmp_path, '[apps.a]\nhttp_only = "perhaps"')
    assert problem.startswith("htagweb.toml:2: apps.a.http_only: expected true or false")


@pytest.mark.parametrize("name", ["host", "none", "bridge", "container:x", ""])
def test_the_engines_own_networks_are_given_to_nobody(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, f'[apps.a]\nnetwork = "{name}"')
    assert problem.startswith("htagweb.toml:2: apps.a.network: expected the name of a network of your own")


def test_a_network_for_all_apps_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, 'network = "out"') == (
        "htagweb.toml:1: network: belongs to one app: into a table [apps.<name>]",
    )


def test_an_apps_environment_and_secrets_are_read_and_their_mistakes_told(tmp_path: Path) -> None:
    settings = load(tmp_path, '[apps.a]\nsecrets = ["api-key"]\n[apps.a.env]\nLANGUAGE = "en"')
    assert (settings.app("a").env, settings.app("a").secrets) == ({"LANGUAGE": "en"}, ("api-key",))
    for toml, told in {
        'secrets = ["../key"]': 'expected a list of file names such as ["api-key"]',
        'secrets = "key"': 'expected a list of file names such as ["api-key"]',
        "env = {A = 1}": 'expected a table of texts such as {LANGUAGE = "en"}; A is none',
        'env = {"A B" = "x"}': 'expected a table of texts such as {LANGUAGE = "en"}; A B is none',
    }.items():
        (problem,) = problems(tmp_path, f"[apps.a]\n{toml}")
        assert problem.startswith(f"htagweb.toml:2: apps.a.{toml.partition(' ')[0]}: {told}")


def test_a_promise_to_do_without_must_be_one(tmp_path: Path) -> None:
    assert load(tmp_path, 'accept_weak = ["memory", "pids"]').accept_weak == ("memory", "pids")
    (problem,) = problems(tmp_path, 'accept_weak = ["everything"]')
    assert "expected a list of: uid, capabilities" in problem


def test_each_field_has_a_name_for_operators_and_each_name_a_field() -> None:
    assert {*KEYS, *PLUMBING, *APP_LIMIT_KEYS, "apps"} == set(Settings.__struct_fields__)
    assert {*LIMIT_KEYS, *APP_LIMIT_KEYS} == set(AppLimits.__struct_fields__)
    assert {*APP_KEYS, "overrides"} == set(AppSettings.__struct_fields__)


def test_the_shipped_file_names_each_key_with_its_default(tmp_path: Path) -> None:
    shipped = (ROOT / "htagweb.toml").read_text()
    assert tomllib.loads(shipped) == {}
    common, _, one_app = re.sub(r"(?m)^# (?=[a-z_]+ = |\[apps)", "", shipped).partition("[apps.")
    assert load(tmp_path, common) == Settings()
    assert list(tomllib.loads(common)) == [key.name for key in KEYS.values()]
    assert set(load(tmp_path, f"[apps.{one_app}").apps) == {"counter"}
    assert set(tomllib.loads(f"[{one_app}")["counter"]) >= {key.name for key in (APP_KEYS | APP_LIMIT_KEYS).values()}


def test_the_schema_is_that_of_the_keys() -> None:
    how = "python -m htagweb_orchestrator.schema > docs/htagweb.schema.json"
    assert (ROOT / "docs" / "htagweb.schema.json").read_text() == schema.text(), how
    shipped = (ROOT / "htagweb.toml").read_text()
    assert shipped.startswith("#:schema ./docs/htagweb.schema.json\n")


def test_an_editor_with_the_schema_takes_the_shipped_file_and_finds_mistakes() -> None:
    check = fastjsonschema.compile(schema.schema())
    shipped = (ROOT / "htagweb.toml").read_text()
    common, _, one_app = re.sub(r"(?m)^# (?=[a-z_]+ = |\[apps)", "", shipped).partition("[apps.")
    check(tomllib.loads(common))
    check(tomllib.loads(f"[apps.{one_app}"))
    check(tomllib.loads('memory = 67108864\nidle_timeout = 90\n[apps.a-1.env]\nA = "b"\n[apps.b]\nsecrets = ["key"]'))
    for mistake in (
        'idel_timeout = "1h"', 'idle_timeout = "soon"', "idle_timeout = 0", "cpus = true", 'memory = "lots"',
        "pids = 1.5", 'dev = "yes"', 'home = "/x"', 'public_url = "ftp://x"', 'accept_weak = ["all"]',
        "max_per_user = 0", "[apps.Counter]", "[apps.a]\nmessage_size = 1", '[apps.a]\nnetwork = "host"',
        "[apps.a]\nenv = {A = 1}", '[apps.a]\nsecrets = ["../x"]', '[apps.a]\nentry = "a b"',
    ):  # fmt: skip
        found = tomllib.loads(mistake)
        with pytest.raises(fastjsonschema.JsonSchemaValueException):
            check(found)


@given(st.sampled_from(list(KEYS.items())), st.data())
def test_what_the_schema_refuses_is_refused_by_us_too(item: tuple[str, Key], data: st.DataObject) -> None:
    """Else an editor would call wrong what works."""
    _, key = item
    known = [
        key.kind.show(getattr(Settings(), item[0])),
        "90s",
        "64m",
        "group:a",
        "https://x.example",
        "/a",
        True,
        7,
        0.5,
    ]
    raw = data.draw(st.sampled_from(known) | st.integers(-1, 10**12) | st.floats(0, 1e6) | st.text(max_size=5))
    try:
        fastjsonschema.compile(dict(key.kind.schema))(raw)
    except fastjsonschema.JsonSchemaValueException:
        wanted = key.kind.schema.get("type")
        if isinstance(raw, str) and wanted in ("boolean", "integer", "number", "array"):
            return  # in the environment all is text
        with pytest.raises(Unexpected):
            key.kind.read(raw)


def test_the_documentation_has_each_key_with_its_default() -> None:
    rows = re.findall(r"(?m)^\| (.+) \|$", (ROOT / "docs" / "configuration.md").read_text())
    for field, key in KEYS.items():
        value = key.kind.show(getattr(Settings(), field))
        default = DEFAULTS_IN_WORDS.get(key.name) or (f"`{value}`" if value else "none")
        assert f"`{key.name}` | {default} | {key.meaning} | `{key.env}`" in rows
    for field, key in PLUMBING.items():
        value = key.kind.show(getattr(Settings(), field))
        assert f"`{key.env}` | {f'`{value}`' if value else 'none'} | {key.meaning}" in rows
    for key in (APP_KEYS | APP_LIMIT_KEYS).values():
        assert any(row.startswith(f"`{key.name}` |") and row.endswith(key.meaning) for row in rows)


def test_the_orchestrator_does_not_start_on_a_bad_file_and_says_where(tmp_path: Path) -> None:
    file = tmp_path / "htagweb.toml"
    file.write_text('memory = "1g"\nidle_timeuot = "90s"\n')
    command = [sys.executable, "-m", "htagweb_orchestrator"]
    environ = {**os.environ, "HTAGWEB_CONFIG": str(file), "HTAGWEB_STATE_DIR": str(tmp_path)}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("htagweb.toml:2: idle_timeuot: unknown key")
    assert ended.stderr.count("\n") == 1
