# SPDX-License-Identifier: AGPL-3.0-or-later
"""The table of settings: where values come from, and what is said of bad ones."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cardkeep import settings
from cardkeep.cli.serve import serve
from cardkeep.errors import SettingsError
from cardkeep.settings import MIB, Settings, load

REPOSITORY = Path(__file__).parents[1]
HASH = "$pbkdf2-sha256$i=1000,l=32$c29tZXNhbHQ$" + "A" * 43


def users(environment: dict[str, str]) -> list[tuple[str, str]]:
    return [(user.name, user.password) for user in load({}, environment).users]


def test_nothing_needs_to_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any setting the official server's folder is served on port 8080."""
    monkeypatch.setenv("HOME", "/home/ana")
    found = load({}, {})
    assert found.folder == Path("/home/ana/.syncserver")
    assert (found.host, found.port, found.workers, found.open) == (None, 8080, 1, False)
    assert (found.users, found.passwords_hashed, found.warnings) == ((), False, ())


SOURCES = [
    ("folder", "/x", Path("/x"), ["CARDKEEP_FOLDER", "SYNC_BASE", "FOLDER"]),
    ("host", "127.0.0.1", ("127.0.0.1",), ["CARDKEEP_HOST", "SYNC_HOST", "HOST"]),
    ("port", "9", 9, ["CARDKEEP_PORT", "SYNC_PORT", "PORT"]),
    ("workers", "3", 3, ["CARDKEEP_WORKERS"]),
    ("open", "yes", True, ["CARDKEEP_OPEN"]),
    ("ip_header", "XRealIp", "x-real-ip", ["CARDKEEP_IP_HEADER", "SYNC_IP_HEADER"]),
    ("public_url", "https://a.b", "https://a.b/", ["CARDKEEP_PUBLIC_URL"]),
    ("max_body", "7", 7 * MIB, ["CARDKEEP_MAX_BODY", "MAX_SYNC_PAYLOAD_MEGS"]),
    ("max_collection", "2G", 2048 * MIB, ["CARDKEEP_MAX_COLLECTION"]),
    ("max_json", "5", 5 * MIB, ["CARDKEEP_MAX_JSON"]),
    ("max_media_file", "512k", MIB // 2, ["CARDKEEP_MAX_MEDIA_FILE"]),
    ("max_media_zip", "9 MiB", 9 * MIB, ["CARDKEEP_MAX_MEDIA_ZIP"]),
    ("daily_copy", "off", False, ["CARDKEEP_DAILY_COPY"]),
    ("keep_newest", "3", 3, ["CARDKEEP_KEEP_NEWEST"]),
    ("keep_days", "0", 0, ["CARDKEEP_KEEP_DAYS"]),
    ("keep_weeks", "9", 9, ["CARDKEEP_KEEP_WEEKS"]),
    ("keep_months", "9", 9, ["CARDKEEP_KEEP_MONTHS"]),
    ("keep_destructive_days", "90", 90, ["CARDKEEP_KEEP_DESTRUCTIVE_DAYS"]),
    ("keep_size", "0", 0, ["CARDKEEP_KEEP_SIZE"]),
    ("shrink_guard", "Refuse", "refuse", ["CARDKEEP_SHRINK_GUARD"]),
    ("shrink_percent", "90", 90, ["CARDKEEP_SHRINK_PERCENT"]),
    ("shrink_least", "1", 1, ["CARDKEEP_SHRINK_LEAST"]),
    ("deletion_percent", "9", 9, ["CARDKEEP_DELETION_PERCENT"]),
    ("deletion_least", "1", 1, ["CARDKEEP_DELETION_LEAST"]),
    ("history_size", "1", MIB, ["CARDKEEP_HISTORY_SIZE"]),
    ("history_days", "30", 30, ["CARDKEEP_HISTORY_DAYS"]),
    ("trash_days", "0", 0, ["CARDKEEP_TRASH_DAYS"]),
    ("share_media", "yes", True, ["CARDKEEP_SHARE_MEDIA"]),
    ("log_level", "DEBUG", "debug", ["CARDKEEP_LOG_LEVEL"]),
]


def test_every_setting_has_a_row_here() -> None:
    """The table of this test is the table of settings."""
    assert [(name, list(line.environment)) for name, line in settings.table()] == [
        (name, variables) for name, _, _, variables in SOURCES
    ]


@pytest.mark.parametrize(("name", "text", "value", "variables"), SOURCES)
def test_flag_environment_file_default(
    name: str, text: str, value: object, variables: list[str], tmp_path: Path
) -> None:
    """The flag counts before the environment, that before the file, that before the default."""
    default = getattr(load({}, {}), name)
    assert default != value
    file = tmp_path / "cardkeep.toml"
    file.write_text(f'{name} = "{text}"\n')
    assert getattr(load({"config": str(file)}, {}), name) == value
    other = {"CARDKEEP_CONFIG": str(file)}
    assert getattr(load({}, other), name) == value
    for variable in variables:
        assert getattr(load({}, {variable: text}), name) == value
        assert getattr(load({}, {variable: ""}), name) == default
    bad = dict.fromkeys(variables, "\0")
    assert getattr(load({name: text}, bad), name) == value
    for position, variable in enumerate(variables):
        later = dict.fromkeys(variables[position + 1 :], "\0")
        assert getattr(load({}, {variable: text, **later}), name) == value


BAD_VALUES = [
    ("port", ["x", "-1", "65536", "80 80", "0x50", "٣"]),
    ("host", ["a b", "http://x", "1.2.3.4,", "a/b"]),
    ("workers", ["0", "65", "two"]),
    ("open", ["maybe", "2"]),
    ("ip_header", ["RightmostXForwadedFor", "X-Real-IP: 1", "x real ip", "-"]),
    ("public_url", ["anki.example.org", "ftp://x", "http://", "http://x/?a"]),
    ("max_body", ["0", "-5", "1.5", "many", "1P"]),
    ("log_level", ["loud"]),
    ("keep_newest", ["-1", "many", "100001"]),
    ("keep_size", ["-1", "1.5"]),
    ("shrink_percent", ["101", "50%"]),
    ("shrink_guard", ["on", "none"]),
    ("folder", ["a\0b"]),
]


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in BAD_VALUES for text in texts]
)
def test_a_bad_value_is_named(name: str, text: str) -> None:
    """The answer has the key, the value, its source and what is expected."""
    line = dict(settings.table())[name]
    with pytest.raises(SettingsError) as caught:
        load({}, {line.environment[-1]: text})
    for part in (name, repr(text), line.environment[-1], line.kind.expects):
        assert part in str(caught.value)
    with pytest.raises(SettingsError, match=f"flag {settings.flag(name)}"):
        load({name: text}, {})


HEADERS = {
    "ConnectInfo": None,
    "RightmostXForwardedFor": "x-forwarded-for",
    "RightmostForwarded": "forwarded",
    "XRealIp": "x-real-ip",
    "CfConnectingIp": "cf-connecting-ip",
    "CloudFrontViewerAddress": "cloudfront-viewer-address",
    "FlyClientIp": "fly-client-ip",
    "TrueClientIp": "true-client-ip",
    "XEnvoyExternalAddress": "x-envoy-external-address",
    "XForwardedFor": "x-forwarded-for",
    "x-forwarded-for": "x-forwarded-for",
    "X-Client-IP": "x-client-ip",
}


@pytest.mark.parametrize("text", HEADERS)
def test_ip_header_takes_the_official_words_and_header_names(text: str) -> None:
    """SYNC_IP_HEADER keeps its meaning, and a plain header name does as well."""
    assert load({}, {"SYNC_IP_HEADER": text}).ip_header == HEADERS[text]


def test_several_hosts() -> None:
    """Addresses are separated by commas; IPv6 may be in brackets."""
    assert load({"host": "127.0.0.1, [::1]"}, {}).host == ("127.0.0.1", "::1")


def test_users_of_the_environment() -> None:
    """Numbers order them, the password may hold colons, and both prefixes are taken."""
    given = {"SYNC_USER2": "ben:b:c", "SYNC_USER1": "ana:a", "CARDKEEP_USER10": "eva:e"}
    given |= {"CARDKEEP_USER1": "dan:d", "SYNC_USERS": "x:y", "SYNC_USER1X": "x:y"}
    assert users(given) == [("dan", "d"), ("eva", "e"), ("ana", "a"), ("ben", "b:c")]


def test_a_gap_in_the_numbers_is_warned_about() -> None:
    """The official server ignores users behind a gap; here they count, with a warning."""
    found = load({}, {"SYNC_USER1": "ana:a", "SYNC_USER3": "eva:e"})
    assert [user.name for user in found.users] == ["ana", "eva"]
    assert len(found.warnings) == 1
    assert "SYNC_USER2 is not set but SYNC_USER3 is" in found.warnings[0]
    assert load({}, {"SYNC_USER1": "ana:a", "SYNC_USER2": "eva:e"}).warnings == ()


def test_a_user_variable_without_a_number_is_warned_about() -> None:
    """SYNC_USER alone is a slip that would lock somebody out silently."""
    found = load({}, {"SYNC_USER": "ana:a"})
    assert found.users == ()
    assert "SYNC_USER is ignored" in found.warnings[0]


def test_a_name_given_twice_is_warned_about() -> None:
    """The first counts."""
    found = load({}, {"SYNC_USER1": "ana:a", "SYNC_USER2": "ana:b"})
    assert [user.password for user in found.users] == ["a"]
    assert "SYNC_USER2 names 'ana' again" in found.warnings[0]


@pytest.mark.parametrize(
    "text", ["ana", "ana:", ":secret", "a/b:secret", "..:secret", "ana.:s", "a\nb:s", "nul:s"]
)
def test_a_bad_user_names_its_variable_and_no_password(text: str) -> None:
    """The server does not start, and says which variable it is."""
    with pytest.raises(SettingsError, match=r"^SYNC_USER1: ") as caught:
        load({}, {"SYNC_USER1": text})
    assert "secret" not in str(caught.value)


def test_a_name_with_combining_characters_is_refused() -> None:
    """Such a name would get another folder than the official server gave it."""
    with pytest.raises(SettingsError, match="Unicode NFC"):
        load({}, {"SYNC_USER1": "zoe\u0301:x"})
    assert users({"SYNC_USER1": "zoé:x"}) == [("zoé", "x")]


@pytest.mark.parametrize(("end", "kept"), [("", ""), ("\n", ""), ("\r\n", ""), ("\n\n", "\n")])
def test_secrets_from_files(end: str, kept: str, tmp_path: Path) -> None:
    """Every secret can be the name of a file; the newline that editors add does not count."""
    file = tmp_path / "secret"
    file.write_bytes(f"ana:a b{end}".encode())
    assert users({"SYNC_USER1_FILE": str(file)}) == [("ana", f"a b{kept}")]
    assert users({"CARDKEEP_USER1_FILE": str(file)}) == [("ana", f"a b{kept}")]
    line = settings.Setting(settings.LEVEL, "", ("CARDKEEP_X",), "", secret=True)
    found = settings._find("x", line, {}, {"CARDKEEP_X_FILE": str(file)}, {}, "")
    assert found == (f"ana:a b{kept}", "environment variable CARDKEEP_X_FILE")


def test_a_secret_that_cannot_be_used_is_not_shown() -> None:
    """The message has the source, but stars for the value."""
    line = settings.Setting(settings.PORT, "", ("CARDKEEP_X",), "", secret=True)
    with pytest.raises(SettingsError, match=r"x: \*\*\* \(flag --x\)") as caught:
        settings._parse("x", line, "hunter2", "flag --x")
    assert "hunter2" not in str(caught.value)


def test_a_secret_file_that_is_not_there(tmp_path: Path) -> None:
    """The variable and the path are named."""
    with pytest.raises(SettingsError, match=r"SYNC_USER1_FILE: .*missing.*No such file"):
        load({}, {"SYNC_USER1_FILE": str(tmp_path / "missing")})


def test_a_user_and_its_file_twin() -> None:
    """Which of the two counts is not guessed."""
    with pytest.raises(SettingsError, match="SYNC_USER1_FILE and SYNC_USER1 are both set"):
        load({}, {"SYNC_USER1": "a:b", "SYNC_USER1_FILE": "/x"})


@pytest.mark.parametrize("variable", settings.HASHED_ENVIRONMENT)
@pytest.mark.parametrize(("value", "warned"), [("1", 0), ("", 0), ("false", 1), ("0", 1)])
def test_passwords_hashed_counts_by_being_there(variable: str, value: str, warned: int) -> None:
    """As with the official server its value means nothing; one that looks like no is warned of."""
    found = load({}, {variable: value, "SYNC_USER1": f"ana:{HASH}"})
    assert found.passwords_hashed
    assert [user.password for user in found.users] == [HASH]
    assert len(found.warnings) == warned


def test_a_password_that_is_no_hash() -> None:
    """With PASSWORDS_HASHED a plain password stops the start and is not shown."""
    with pytest.raises(SettingsError, match=r"SYNC_USER1: .*\$pbkdf2-sha256\$") as caught:
        load({}, {"PASSWORDS_HASHED": "1", "SYNC_USER1": "ana:secret"})
    assert "secret" not in str(caught.value)


def test_a_configuration_file(tmp_path: Path) -> None:
    """Numbers and booleans may be written as such, and users are a table."""
    file = tmp_path / "cardkeep.toml"
    file.write_text('port = 9000\nopen = true\n[users]\nana = "a:b"\n')
    found = load({"config": str(file)}, {})
    assert (found.port, found.open) == (9000, True)
    assert [(user.name, user.password) for user in found.users] == [("ana", "a:b")]
    file.write_text(f'passwords_hashed = true\n[users]\nana = "{HASH}"\n')
    assert load({"config": str(file)}, {}).passwords_hashed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("port = [1]", r"port: \[1\] \(file .*\)"),
        ("port = 99999", r"port: '99999' \(file .*\) cannot be used; expected a number"),
        ("prot = 1", "prot: no such setting"),
        ("port 1", "is not TOML"),
        ("users = 3", "users .* cannot be used"),
        ("[users]\nana = 3", "users .* cannot be used"),
        ('passwords_hashed = "no"', "passwords_hashed: 'no'"),
        ("\ud8ff", "is not TOML"),
    ],
)
def test_a_bad_configuration_file(content: str, message: str, tmp_path: Path) -> None:
    """The file, the key and what is wrong are named."""
    file = tmp_path / "cardkeep.toml"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(SettingsError, match=message) as caught:
        load({"config": str(file)}, {})
    assert str(file) in str(caught.value)


def test_a_configuration_file_that_is_not_there(tmp_path: Path) -> None:
    """It is an error, whoever named it."""
    with pytest.raises(SettingsError, match="CARDKEEP_CONFIG"):
        load({}, {"CARDKEEP_CONFIG": str(tmp_path / "missing")})


def test_settings_do_not_show_passwords() -> None:
    """Not even by accident, in a log or traceback."""
    assert "hunter2" not in repr(load({}, {"SYNC_USER1": "ana:hunter2"}))


def test_every_setting_is_a_flag_of_serve() -> None:
    """The flags come from the table, with each name in the help."""
    assert [option.name for option in serve.params] == [
        "config",
        *(name for name, _ in settings.table()),
    ]
    text = " ".join(serve.get_help(click.Context(serve)).split())
    for name, line in settings.table():
        assert settings.flag(name) in text
        assert ", ".join(line.environment) in text


def test_the_page_of_the_docs_agrees() -> None:
    """docs/settings.md is what the table makes it (`make fix` writes it)."""
    script = REPOSITORY / "scripts" / "settings_page.py"
    made = subprocess.run([sys.executable, script], check=True, capture_output=True).stdout
    page = (REPOSITORY / "docs" / "settings.md").read_bytes()
    assert made == page
    for field in dataclasses.fields(Settings):
        if field.name != "warnings":
            assert f"\n## {field.name}\n".encode() in page
