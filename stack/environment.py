"""The variables that point every other command at the servers of a home."""

from collections.abc import Mapping

from stack.connect.worker import connect_url, connector_variables, rest_variables, worker_name
from stack.mariadb import server as mariadb
from stack.ports import LOOPBACK
from stack.postgresql import server as postgresql
from stack.service import Site


def variables(site: Site) -> Mapping[str, str]:
    """Return name and value of every variable; all databases as SQLAlchemy URLs."""
    return {
        "EMRSYNC_SOURCE_ADMIN_URL": _source_url(site, postgresql.ADMIN, "source_admin"),
        "EMRSYNC_OPENEMR_ADMIN_URL": _openemr_url(site, mariadb.ADMIN, "openemr_admin"),
        "EMRSYNC_APP_URL": _source_url(site, "emrsync_app", "emrsync_app"),
        "EMRSYNC_SOURCE_URL": _source_url(site, "emrsync_marker", "emrsync_marker"),
        "EMRSYNC_OPENEMR_URL": _openemr_url(site, "emrsync_writer", "emrsync_writer"),
        "EMRSYNC_CONNECT_URL": ",".join(
            connect_url(site.port(worker_name(number))) for number in range(1, site.state.workers + 1)
        ),
        **rest_variables(site),
        **connector_variables(site),
    }


def _source_url(site: Site, user: str, account: str) -> str:
    address = f"{LOOPBACK}:{site.port('postgresql')}/{postgresql.DATABASE}"
    return f"postgresql+psycopg://{user}:{site.password(account)}@{address}"


def _openemr_url(site: Site, user: str, account: str) -> str:
    address = f"{LOOPBACK}:{site.port('mariadb')}/{mariadb.DATABASE}"
    return f"mysql+pymysql://{user}:{site.password(account)}@{address}?charset=utf8mb4"
