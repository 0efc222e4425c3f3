"""SQL that MariaDB and MySQL spell or read differently."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

ONE_DIALECT: Final[Mapping[str, str]] = {
    r"\bRETURNING\b": "MariaDB",
    r"\bSET STATEMENT\b": "MariaDB",
    r"\bmax_statement_time\b": "MariaDB",
    r"\bFOR UPDATE WAIT\b": "MariaDB",
    r"\b(NEXT|PREVIOUS) VALUE FOR\b": "MariaDB",
    r"\bCREATE OR REPLACE TABLE\b": "MariaDB",
    r"\b(ADD|DROP) COLUMN IF (NOT )?EXISTS\b": "MariaDB",
    r"\b(INET6|UUID)\s+(NOT )?NULL\b": "MariaDB",
    r"\bIDENTIFIED VIA\b": "MariaDB",
    r"@@tx_isolation\b": "MariaDB",
    r"\bFOR SHARE\b": "MySQL",
    r"\bmax_execution_time\b": "MySQL",
    r"\)\s+AS\s+\w+\s+ON DUPLICATE KEY": "MySQL",
    r"\b(UUID_TO_BIN|BIN_TO_UUID|JSON_TABLE|ANY_VALUE|REGEXP_LIKE)\(": "MySQL",
    r"\bMEMBER OF\b": "MySQL",
    r"\bLATERAL\b": "MySQL",
    r"->>": "MySQL",
    r"\butf8mb4_0900_\w+": "MySQL",
    r"\bIDENTIFIED WITH caching_sha2_password\b": "MySQL",
    r"@@transaction_isolation\b": "MySQL",
}
"""Patterns of what one server has and the other refuses; none may be sent to OpenEMR's server unswitched."""

COMMON: Final[Mapping[str, str]] = {
    r"\bLOCK IN SHARE MODE\b": "MySQL 8 prefers FOR SHARE, which MariaDB lacks; both take this",
    r"\bON DUPLICATE KEY UPDATE\b.*\bVALUES\(": "MySQL 8.0.20 prefers an alias, which MariaDB lacks; both take this",
    r"\bOVER \(PARTITION BY\b": "MariaDB from 10.2, MySQL from 8.0",
    r"\bLAST_INSERT_ID\(GREATEST\(": "the same on both",
}
"""Patterns of statements that we send although the servers' own manuals differ about them, and why that is safe."""


def of_one_dialect(text: str) -> list[str]:
    """Give what in the text only one of the servers understands."""
    return [
        f"{found[0]} ({server} only)"
        for pattern, server in ONE_DIALECT.items()
        for found in re.finditer(pattern, text, re.IGNORECASE)
    ]
