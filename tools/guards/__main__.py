"""`python -m tools.guards [NAME...]`: print every complaint; exit 1 if there is one."""
from __future__ import annotations

import argparse
import sys

from tools.course import ROOT
from tools.guards import GUARDS, SLOW


def main() -> int:
    known = {**GUARDS, **SLOW}
    parser = argparse.ArgumentParser(prog="python -m tools.guards", description="Check the repository against the course's rules.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(known)} (default: all but {', '.join(SLOW)})")
    parser.add_argument("--all", action="store_true", help="the slow ones too, which run every notebook")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"no guard is called {unknown[0]}; choose from {', '.join(known)}")
    total = 0
    for name in args.names or (known if args.all else GUARDS):
        complaints = known[name](ROOT)
        total += len(complaints)
        print(f"{name}: {len(complaints) or 'no'} complaint{'s' * (len(complaints) != 1)}")
        for complaint in complaints:
            print(f"  {complaint}")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
