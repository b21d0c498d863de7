"""What a handler made of messages, as plain values that compare and print well."""

from typing import Any

import numpy.typing as npt

from consumer.handlers import Decoded


def plain(decoded: Decoded) -> dict[str, Any]:
    """All of `decoded`, types of columns included."""
    e = decoded.events
    columns: dict[str, npt.NDArray[Any]] = {
        "index": decoded.index,
        "id": e.id,
        "account_id": e.account_id,
        "name": e.name,
    }
    columns |= {
        "source": e.source,
        "created_us": e.created_us,
        "value_us": e.value_us,
        "business_us": e.business_us,
        **e.ids,
    }
    columns |= {f"skipped: {reason}": where for reason, where in decoded.skipped.items()}
    return {
        **{column: (str(array.dtype), array.tolist()) for column, array in columns.items()},
        "rejects": [(r.index, r.error_class, r.reason) for r in decoded.rejects],
    }
