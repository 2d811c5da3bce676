"""How fast codecs encode, as a share of a one-thread copy of the same fp32 tensor in the same run."""

from __future__ import annotations

import json

from mcc.train.compress.bench import measure


def main() -> None:
    rows = []
    for found in measure():
        where = f"{found.codec}, {'x'.join(map(str, found.shape))}"
        row = {
            "what": f"{where}: encode / copy ({found.copy_gb_s:.1f} GB/s)",
            "value": round(found.encode_of_copy, 3),
            "unit": f"x, {found.ratio:.2f}x smaller",
        }
        barred = found.codec in ("quantize:bits=8", "quantize:bits=4")
        rows.append(row | ({"bar": "at least 0.25", "ok": found.encode_of_copy >= 0.25} if barred else {}))
        if found.plain_encode_gb_s:
            times = found.encode_gb_s / found.plain_encode_gb_s
            row = {"what": f"{where}: encode / plain torch", "value": round(times, 1), "unit": "x"}
            rows.append(row | ({"bar": "at least 5", "ok": times >= 5} if barred else {}))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
