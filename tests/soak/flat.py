"""Checks that memory stays flat in a load test's intervals.csv, for the client and the last server, which is not killed.

The median of the last quarter of the run may exceed that of the second quarter by 5 % and 4 MiB.
"""

import csv
import statistics
import sys

MIB = 1 << 20


def main():
    with open(sys.argv[1], newline="") as file:
        rows = list(csv.DictReader(file))
    servers = [name for name in rows[0] if name.startswith("server") and name.endswith("_rss_bytes")]
    flat = True
    for name in ("client_rss_bytes", servers[-1]):
        values = [int(float(row[name])) for row in rows if row[name]]
        quarter = len(values) // 4
        assert quarter >= 10, f"{len(values)} intervals are too few: expected at least 40"
        early, late = (statistics.median(values[at * quarter:(at + 1) * quarter]) for at in (1, 3))
        grown = late > early * 1.05 + 4 * MIB
        flat &= not grown
        print(f"{name:<24}{early / MIB:.1f} MiB in the second quarter, {late / MIB:.1f} in the last, "
              f"at most {max(values) / MIB:.1f}: {'GROWN' if grown else 'flat'}")
    sys.exit(0 if flat else 1)


main()
