"""JSON Lines logs. Every line names its run and its stage.

The driver logs to `log.jsonl` in the run's folder. Workers log to standard error, which Ray stores per
process and a cluster's log collector can read.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

RUN_VARIABLE = "HEADWATER_RUN"
STAGE_VARIABLE = "HEADWATER_STAGE"
"""Environment variables that hold the run and the stage of a process's log lines."""
FILE = "log.jsonl"


class JsonLines(logging.Formatter):
    """time, level, run, stage, logger, message; a traceback under `error`."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "run": os.environ.get(RUN_VARIABLE, ""),
            "stage": os.environ.get(STAGE_VARIABLE, ""),
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def to_file(path: Path) -> None:
    """Send all logs of this process to `path` and nowhere else."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


@dataclass(frozen=True)
class Context:
    """Run and stage of a process. Passed to workers so that their log lines name them."""

    run: str
    stage: str

    @classmethod
    def here(cls) -> Context:
        """Context of this process."""
        return cls(os.environ.get(RUN_VARIABLE, ""), os.environ.get(STAGE_VARIABLE, ""))

    def enter(self) -> None:
        """Adopt this context. Called once in each worker process."""
        os.environ[RUN_VARIABLE], os.environ[STAGE_VARIABLE] = self.run, self.stage
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
