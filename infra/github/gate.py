"""`make gate`: the one required check. Green only if no job before it failed or was cancelled.

Standard library only. NEEDS holds `toJSON(needs)`: results of all jobs that came before. A skipped
job counts as well done only where MAY_BE_SKIPPED names it, because GitHub also skips what stood
behind a failure.
"""

import json
import os
import sys


def unfit(needs: dict[str, dict[str, object]], may_be_skipped: set[str]) -> list[str]:
    """A sentence for each job that keeps the gate shut."""
    accepted = {
        name: {"success", "skipped"} if name in may_be_skipped else {"success"} for name in needs
    }
    return [
        f"{name}: {job['result']}"
        for name, job in needs.items()
        if job["result"] not in accepted[name]
    ]


def main() -> None:
    """Read NEEDS and MAY_BE_SKIPPED from the environment; 1 = the gate is shut."""
    needs = json.loads(os.environ.get("NEEDS") or "{}")
    if not needs:
        sys.exit("gate: NEEDS is empty; give it the value of toJSON(needs)")
    found = unfit(needs, set(os.environ.get("MAY_BE_SKIPPED", "").split()))
    if found:
        sys.exit(f"gate: not well done: {', '.join(found)}")
    sys.stdout.write(f"gate: {len(needs)} of {len(needs)} jobs are well done\n")


if __name__ == "__main__":
    main()
