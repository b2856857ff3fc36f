"""Logs as JSON, one object a line, each with the run and the stage that it belongs to.

The driver writes them to `log.jsonl` in the run's folder; workers write them to their standard error, which
Ray keeps per process and a cluster's log collector picks up.
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
"""Environment of the process: what its log lines belong to."""
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
    """From here on this process logs to `path` alone."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


@dataclass(frozen=True)
class Context:
    """What a process works for: sent along to workers, whose log lines then carry it."""

    run: str
    stage: str

    @classmethod
    def here(cls) -> Context:
        """This process's own."""
        return cls(os.environ.get(RUN_VARIABLE, ""), os.environ.get(STAGE_VARIABLE, ""))

    def enter(self) -> None:
        """Called once in a worker process."""
        os.environ[RUN_VARIABLE], os.environ[STAGE_VARIABLE] = self.run, self.stage
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
