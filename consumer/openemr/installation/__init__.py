"""An OpenEMR-shaped database, made from the facts of one version."""

from consumer.openemr.installation.installer import IncompleteDatabaseError, OtherVersionError, install
from consumer.openemr.installation.rows import CLINICIAN_NPI, WRITER_USERNAME
from consumer.openemr.installation.schema import DEFAULT_VERSION, InstallationError, UnknownVersionError, versions

__all__ = [
    "CLINICIAN_NPI",
    "DEFAULT_VERSION",
    "WRITER_USERNAME",
    "IncompleteDatabaseError",
    "InstallationError",
    "OtherVersionError",
    "UnknownVersionError",
    "install",
    "versions",
]
