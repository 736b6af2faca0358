"""`make promote` and `make rollback`: move the alias, with what a person typed held to its form.

VERSION, EXPECT and REASON come from the environment and go to `vivero` as arguments of a list, so
that no shell ever reads them.
"""

import os
import re
import subprocess
import sys

FORMS = {
    "VERSION": (r"[1-9][0-9]{0,8}", "a version number such as 7"),
    "EXPECT": (r"none|[1-9][0-9]{0,8}", "the version that is champion now, or none"),
    "EXPECT of a rollback": (r"[1-9][0-9]{0,8}", "the version that is champion now"),
    "REASON": (r"[^\x00-\x1f\x7f]{3,200}", "a reason of 3 to 200 characters on one line"),
}


def command(action: str, given: dict[str, str]) -> list[str]:
    """The arguments of `vivero` for an action.

    Raises:
        ValueError: When a value is missing or not of its form.
    """
    if action == "rollback":
        expected = _checked("EXPECT of a rollback", given)
        return ["rollback", "--expect-champion", expected, "--reason", _reason(given)]
    if action != "promote":
        raise ValueError(f"'{action}' is neither promote nor rollback")
    version, expected = _checked("VERSION", given), _checked("EXPECT", given)
    return ["promote", version, "--expect-champion", expected, "--reason", _reason(given)]


def _reason(given: dict[str, str]) -> str:
    reason = _checked("REASON", given)
    if "GITHUB_RUN_ID" not in given:
        return reason
    return f"{reason} [github: {given.get('GITHUB_ACTOR')}, run {given['GITHUB_RUN_ID']}]"


def _checked(name: str, given: dict[str, str]) -> str:
    form, meaning = FORMS[name]
    value = given.get(name.partition(" ")[0], "")
    if not re.fullmatch(form, value) or not value.isprintable():
        raise ValueError(f"{name} must be {meaning}; got {value!r}")
    return value


def main() -> None:
    """Check, then let `vivero` act; its exit code is ours."""
    try:
        arguments = command(sys.argv[1], dict(os.environ))
    except ValueError as error:
        sys.exit(f"alias: {error}")
    done = subprocess.run([sys.executable, "-m", "vivero.cli.app", *arguments], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
