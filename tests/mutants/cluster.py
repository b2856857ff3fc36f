"""Stores and artifacts."""

from __future__ import annotations

from tests.mutants.mutant import mutant

MANIFEST = "test_artifact.py::test_a_manifest_is_on_the_disk_before_it_has_its_name"
FINISHING = "test_artifact.py::test_finishing_records_checksums_and_drops_scratch_files"

MUTANTS = [
    mutant(
        "version-out-of-key",
        '"version": self.version,',
        "",
        "test_stage.py::test_a_raised_version_makes_another_key",
    ),
    mutant(
        "key-depends-on-workers",
        "exclude=off | self.runtime_fields",
        "exclude=off",
        "test_stage.py::test_how_the_work_is_spread_does_not_change_the_key",
    ),
    mutant("no-fsync", "os.fsync(stream.fileno())", "pass", MANIFEST),
    mutant("scratch-recorded", 'or name.startswith(f"{SCRATCH}/")', "", FINISHING),
]
