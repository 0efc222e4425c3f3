"""Makes the passwords of the compose file once, each in the folder of those who may read it."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

SOURCE = "postgresql+psycopg://{user}:{password}@postgres:5432/clinic"
OPENEMR = "mysql+pymysql://{user}:{password}@mariadb:3306/openemr?charset=utf8mb4"


def main(root: Path) -> None:
    """Write what is missing below `root`; nothing is ever changed, as the servers keep their first passwords."""
    if (root / "admin" / "complete").exists():
        return
    password = {name: secrets.token_hex(16) for name in ("source", "openemr", "app", "cdc", "marker", "writer")}
    app_url = SOURCE.format(user="emrsync_app", password=password["app"])
    source_url = SOURCE.format(user="emrsync_marker", password=password["marker"])
    openemr_url = OPENEMR.format(user="emrsync_writer", password=password["writer"])
    texts = {
        "app/app_url": app_url,
        "cdc/cdc_password": password["cdc"],
        "consumer/source_url": source_url,
        "consumer/openemr_url": openemr_url,
        "admin/source_password": password["source"],
        "admin/openemr_password": password["openemr"],
        "admin/source_admin_url": SOURCE.format(user="emrsync_admin", password=password["source"]),
        "admin/openemr_admin_url": OPENEMR.format(user="root", password=password["openemr"]),
        "admin/complete": "",
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        # Each container's own user must read it; who can is decided by which folders it is given.
        path.chmod(0o444)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
