"""How fast codecs encode: as a share of a one-thread copy of the same fp32 tensor in the same run, and low rank as
times its own matrix products.
"""

from __future__ import annotations

import json
from typing import Any

from mcc.train.compress.bench import DEFAULT_CODECS, FIG14_CODECS, CodecSpeed, measure

BARRED = ("quantize:bits=8", "quantize:bits=4")


def rows_of(found: CodecSpeed) -> list[dict[str, Any]]:
    """The rows of one codec on one shape, with the bars that it is to meet."""
    where = f"{found.codec}, {'x'.join(map(str, found.shape))}"
    row = {
        "what": f"{where}: encode / copy ({found.copy_gb_s:.1f} GB/s)",
        "value": round(found.encode_of_copy, 3),
        "unit": f"x, {found.ratio:.2f}x smaller",
    }
    barred = found.codec in BARRED
    rows = [row | ({"bar": "at least 0.25", "ok": found.encode_of_copy >= 0.25} if barred else {})]
    if found.plain_encode_gb_s:
        times = found.encode_gb_s / found.plain_encode_gb_s
        row = {"what": f"{where}: encode / plain torch", "value": round(times, 1), "unit": "x"}
        rows.append(row | ({"bar": "at least 5", "ok": times >= 5} if barred else {}))
    if found.encode_of_matmul:
        times = found.encode_of_matmul
        row = {"what": f"{where}: encode / its matmuls", "value": round(times, 2), "unit": "x the time"}
        rows.append(row | {"bar": "at most 1.5", "ok": times <= 1.5})
    return rows


def main() -> None:
    codecs = dict.fromkeys((*DEFAULT_CODECS, *FIG14_CODECS))
    print(json.dumps([row for found in measure(list(codecs)) for row in rows_of(found)]))


if __name__ == "__main__":
    main()
