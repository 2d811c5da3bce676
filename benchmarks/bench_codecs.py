"""How fast codecs encode, as a share of a one-thread copy of the same fp32 tensor in the same run."""

from __future__ import annotations

import json

from mcc.train.compress.bench import measure


def main() -> None:
    rows = []
    for found in measure():
        rows.append(
            {
                "what": f"{found.codec}, {'x'.join(map(str, found.shape))}: encode / copy ({found.copy_gb_s:.1f} GB/s)",
                "value": round(found.encode_gb_s / found.copy_gb_s, 3),
                "unit": f"x, {found.ratio:.2f}x smaller",
            }
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
