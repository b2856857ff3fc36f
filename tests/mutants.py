"""Small mistakes, each put into a copy of the source: does a nearby test see it?

    python -m tests.mutants [--list] [--only NAME …] [--from N] [--to N] [--timeout SECONDS]

A mutant is a piece of source that stands in one place only, and what takes its place; so it outlives moves of
files. Its tests are named by their file, wherever that lies below tests/. First all of these tests must pass
on the unchanged copy. Exits with 1 when a mutant survives, with 2 when one can no longer be made.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("cluster", "data_pipeline", "llm", "serving", "headwater")
NEEDED = (*SOURCES, "tests", "recipes")
LIBRARIES = ("pytest", "hypothesis", "torch", "transformers", "ray", "numba", "pyarrow.parquet")
"""Imported once for all runs: most of the time of the nearest tests."""
BASELINE = 6
"""Times the limit of one mutant that the first run, of all tests, may take."""


@dataclass(frozen=True)
class Mutant:
    name: str
    old: str
    new: str
    tests: tuple[str, ...]
    """`file.py` or `file.py::test`."""


def mutant(name: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, old, new, tests)


ALIGNMENT, ROLLOUTS, OBJECTIVES = "test_alignment.py", "test_rollouts.py", "test_objectives.py"
LOSSES = "test_losses.py"
CHAT, DPO, ENGINE, FILTERS = "test_chat.py", "test_dpo.py", "test_torch_engine.py", "test_filters.py"
PAIR, PAIRS, PAIR_LOSSES = "test_preferences.py", "test_pairs.py", "test_preference_losses.py"
RECORDS = "test_records.py"
GOPHER = "test_filters.py::test_each_gopher_repetition_rule_hits_what_it_is_for"
LEARNER = f"{ROLLOUTS}::test_the_learner_is_given_the_answers_tokens_alone_to_learn"
POLICY = f"{ROLLOUTS}::test_the_policy_loss_is_the_surrogate_plus_the_weighted_kl_over_answer_tokens"
ADVANTAGES = f"{ROLLOUTS}::test_advantages_compare_the_answers_to_one_prompt_with_each_other"
FETCHED = f"{ROLLOUTS}::test_a_worker_fetches_the_weights_of_the_version_that_it_is_asked_for"
BOARD = f"{ROLLOUTS}::test_the_board_gives_out_a_version_only_once_it_is_there"
REPORTED = f"{ROLLOUTS}::test_a_worker_reports_the_log_probabilities_of_the_policy_and_of_the_reference"
SEPARATE = "test_separate_documents.py::test_positions_count_from_the_last_end"
MANIFEST = "test_artifact.py::test_a_manifest_is_on_the_disk_before_it_has_its_name"
FINISHING = "test_artifact.py::test_finishing_records_checksums_and_drops_scratch_files"
CUT = "test_manager.py::test_a_checkpoint_with_fewer_bytes_than_a_rank_wrote_does_not_count"

MUTANTS = [
    # -- alignment, by what it teaches
    mutant("kl-sign", "surrogate + self.kl * penalty", "surrogate - self.kl * penalty", ALIGNMENT),
    mutant(
        "prompt-in-rl-mask",
        "mask.append(np.concatenate([blank, np.full(",
        "mask.append(np.concatenate([blank + 1, np.full(",
        ALIGNMENT,
    ),
    mutant(
        "advantages-grouped-wrongly",
        "mine.reshape(2, len(places), -1)",
        "mine.reshape(2, -1, len(places)).swapaxes(1, 2)",
        ALIGNMENT,
    ),
    mutant(
        "reward-negated",
        "return config.reward_model_weight * rollouts.model_rewards + ",
        "return -config.reward_model_weight * rollouts.model_rewards + ",
        ALIGNMENT,
    ),
    mutant(
        "chosen-and-rejected-swapped",
        "(a, b) if self.ranks[a] < self.ranks[b]",
        "(a, b) if self.ranks[a] > self.ranks[b]",
        ALIGNMENT,
    ),
    mutant("rankings-dropped", "read_rankings(session.store)", "read_rankings(session.store)[:0]", ALIGNMENT),
    mutant(
        "sft-mask-inverted",
        '"mask": pad(self.examples.gather("mask", indices), 0, np.uint8),',
        '"mask": 1 - pad(self.examples.gather("mask", indices), 0, np.uint8),',
        ALIGNMENT,
    ),
    # -- the parts of reinforcement learning
    mutant(
        "prompt-in-rl-kl",
        "torch.where(mask != 0, -losses, 0)",
        "-losses",
        f"{ROLLOUTS}::test_a_prompt_of_tiny_probability_leaves_loss_and_gradient_finite",
    ),
    mutant("answers-not-judged-learnt", "float(valid)", "1.0", ROLLOUTS),
    mutant("rollouts-of-one-worker", "place * len(self.rollout_workers) // of", "0", ROLLOUTS),
    mutant("policy-temperature", "temperature=self.temperature)", "temperature=1.0)", POLICY),
    mutant("old-logprobs-shifted", "[blank, completion.logprobs]", "[completion.logprobs, blank]", LEARNER),
    mutant("reference-is-policy", "np.concatenate([blank, given])", "old[-1]", LEARNER),
    mutant("grpo-advantages-alone", "ESTIMATORS[self.config.advantage]", 'ESTIMATORS["grpo"]', ADVANTAGES),
    mutant("weights-of-any-version", "self._version == version)", "self._version >= 0)", BOARD),
    mutant("stale-rollouts", "version is not None and version != self.version", "version == -2", FETCHED),
    mutant("grpo-divisor", "keepdims=True) / np.maximum(counts - 1, 1)", "keepdims=True) / counts", LOSSES),
    mutant("rloo-with-itself", "centred * counts / np.maximum(counts - 1, 1)", "centred", LOSSES),
    mutant(
        "clip-by-maximum",
        "-torch.minimum(ratio * advantages",
        "-torch.maximum(ratio * advantages",
        LOSSES,
    ),
    mutant("kl-direction", "difference = reference - logprobs", "difference = logprobs - reference", LOSSES),
    mutant("repeated-words", "len(set(long_words)) == len(long_words)", "True", OBJECTIVES),
    # -- losses and the engine
    mutant(
        "gradients-halved",
        "len(micro_batches) / weight",
        "len(micro_batches) / weight / 2",
        "test_plain_torch.py",
    ),
    mutant(
        "clip-left-out", 'config.clip if config.optimizer == "adamw" else 0.0', "0.0", "test_plain_torch.py"
    ),
    mutant("warmup-from-zero", "(step + 1) / warmup", "step / warmup", OBJECTIVES),
    mutant("z-loss-unmasked", ".square() * mask_BL).sum()", ".square()).sum()", OBJECTIVES),
    mutant(
        "dpo-reference-added",
        "h = beta * ((chosen - reference_chosen)",
        "h = beta * ((chosen + reference_chosen)",
        DPO,
    ),
    mutant(
        "dpo-prompt-counted", "-(token_losses(model, ids) * mask[:, 1:])", "-(token_losses(model, ids))", DPO
    ),
    # -- pairs
    mutant(
        "pair-prompt-not-shortened", "room = max_length - max(map(len,", "room = 9999 - max(map(len,", PAIR
    ),
    mutant("held-out-rankings-learnt", "if split_of_prompt(r.prompt) == split", "if True", PAIRS),
    mutant("rankings-without-weight", "        return rankings\n", "        return 1.0\n", PAIRS),
    mutant(
        "first-held-out-pairs", "permutation(len(rows), 0, 0, np.arange(share))", "np.arange(share)", PAIRS
    ),
    mutant("kto-own-answers", "(rows + 1) % len(pairs)", "rows % len(pairs)", DPO),
    mutant("simpo-of-sums", "/ mask[:, 1:].sum(dim=1) if mean", "if mean", PAIR_LOSSES),
    mutant("frozen-gradients", "4 * matrices + 6 * adapters", "6 * matrices + 6 * adapters", RECORDS),
    mutant("turns-end-alone", "[*turns, document_end_id(tokenizer),", "[*turns,", ENGINE),
    mutant(
        "end-of-turn-not-learnt",
        'len(content) + 1 if role == "assistant"',
        'len(content) if role == "assistant"',
        CHAT,
    ),
    mutant("top-p-one-token-more", "(before_BV < sampling.top_p)", "(before_BV <= 1.0)", ENGINE),
    mutant(
        "temperature-upside-down",
        "logits_BV / sampling.temperature",
        "logits_BV * sampling.temperature",
        REPORTED,
    ),
    mutant("one-epoch-order", "np.uint64(epoch & _MASK)", "np.uint64(0)", "test_order.py"),
    mutant(
        "shares-overlap",
        "self.batch * (rank + 1) // world_size",
        "self.batch * (rank + 1) // world_size + 1",
        "test_order.py",
    ),
    mutant(
        "heldout-is-trained-on",
        "(document_id) < HELDOUT_SHARE",
        "(document_id) >= HELDOUT_SHARE",
        "test_conversations.py",
    ),
    # -- what is on disk
    mutant("bytes-of-a-rank-unchecked", "if found != written:", "if False:", CUT),
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
    # -- cleaning
    mutant(
        "last-rule-decides",
        "hit = alive & np.asarray(rule.hits(scores), bool)",
        "hit = np.asarray(rule.hits(scores), bool)",
        GOPHER,
    ),
    mutant("duplicates-counted-once", "characters += len(piece)", "characters += 1", GOPHER),
    mutant(
        "ngrams-overlap",
        "place += n\n",
        "place += 1\n",
        f"{FILTERS}::test_ngram_counts_equal_the_naive_definition",
    ),
    mutant(
        "shortest-duplicate-stays",
        "np.lexsort((-lengths[rows], groups[rows]))",
        "np.lexsort((lengths[rows], groups[rows]))",
        "test_dedup.py::test_the_longest_stays_then_the_smallest_id_in_any_order",
    ),
    mutant(
        "positions-go-on",
        "np.where(inputs == end_id, at, 0)",
        "np.where(inputs == end_id, 0, 0)",
        SEPARATE,
    ),
    # -- serving
    mutant(
        "keys-by-equality",
        "hmac.compare_digest(token, key.secret)",
        "token == key.secret",
        "test_hostile.py::test_every_key_is_compared_in_constant_time",
    ),
    mutant(
        "any-scheme", 'scheme.lower() != "bearer" or ', "", "test_hostile.py::test_keys_are_compared_whole"
    ),
    mutant(
        "first-promotion-served",
        "next(reversed(promotions(store, recipe)), None)",
        "next(iter(promotions(store, recipe)), None)",
        "test_promotion.py::test_a_roll_back_serves_the_model_before_and_keeps_every_record",
    ),
    mutant(
        "better-by-chance",
        "decided >= DECIDED and rate.low > 0.5",
        "decided >= DECIDED and rate.value > 0.5",
        "test_gate.py::test_the_win_rate_must_be_above_a_half_by_its_interval",
    ),
    mutant(
        "ranks-without-halves",
        "np.cumsum(totals) - totals / 2",
        "np.cumsum(totals)",
        "test_agreement.py::test_alpha_equals_the_published_values",
    ),
    mutant("rank-not-counted", "- np.log(np.asarray(ranks, float))", "", "test_cite.py"),
    mutant("said-twice", "near and not any(_same(", "near or not any(_same(", "test_cite.py"),
]


def place_of(snippet: str, root: Path) -> Path:
    """The one source file that holds it, once. LookupError otherwise."""
    found = [path for path in _files(root, SOURCES, ".py") for _ in range(path.read_text().count(snippet))]
    if len(found) != 1:
        raise LookupError(f"stands in {len(found)} places, not in one: {snippet!r}")
    return found[0]


def nearest(name: str, root: Path) -> str:
    """`file.py::test` with the file's path below the root. LookupError unless one file has that name."""
    file, *rest = name.split("::")
    found = [path for path in _files(root, ("tests",), ".py") if path.name == file]
    if len(found) != 1:
        raise LookupError(f"{len(found)} files are called {file}")
    return "::".join([str(found[0].relative_to(root)), *rest])


def _files(root: Path, folders: Iterable[str], suffix: str) -> Iterator[Path]:
    """Links to folders are not followed: a file counts once."""
    for top in (root / folder for folder in folders):
        for here, _, names in () if top.is_symlink() else os.walk(top):
            yield from (Path(here) / name for name in names if name.endswith(suffix))


def ended(root: Path, tests: Iterable[str], timeout: float) -> tuple[str, str]:
    """How the tests ended in a copy (passed, failed, timed out, broken), and what pytest printed.

    In a fork of this process, which has the large libraries already and nothing of the project.
    """
    log, deadline = root / "pytest.log", time.monotonic() + timeout
    child = os.fork()
    if not child:
        _run_and_exit(root, list(tests), log)
    how = "timed out"
    try:
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                how = {0: "passed", 1: "failed"}.get(os.waitstatus_to_exitcode(status), "broken")
                break
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what it started, and after Ctrl-C itself
            os.killpg(child, signal.SIGKILL)
    return how, log.read_text(errors="replace")


def _run_and_exit(root: Path, tests: list[str], log: Path) -> NoReturn:
    os.setpgid(0, 0)
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(root)
    os.environ |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # a file of the same size and second would be taken for the one before
    sys.path[:] = [str(root), *(path for path in sys.path if path not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    code = 2
    try:
        code = int(importlib.import_module("pytest").main(["-x", "-p", "no:cacheprovider", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def chosen(options: argparse.Namespace) -> list[tuple[int, Mutant]]:
    numbered = list(enumerate(MUTANTS, 1))[options.first - 1 : options.last]
    if unknown := set(options.only).difference(mutant.name for mutant in MUTANTS):
        raise LookupError(f"no mutant is called {', '.join(sorted(unknown))}")
    return [(n, mutant) for n, mutant in numbered if not options.only or mutant.name in options.only]


def run(options: argparse.Namespace) -> int:
    wanted = chosen(options)
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory(prefix="headwater-mutants-") as folder:
        root = Path(folder)
        for name in NEEDED:
            if (ROOT / name).is_symlink():
                (root / name).symlink_to((ROOT / name).readlink())
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, symlinks=True)
        shutil.copy(ROOT / "pyproject.toml", root)
        made = [(n, m, place_of(m.old, root), [nearest(t, root) for t in m.tests]) for n, m in wanted]
        all_tests = sorted({test for *_, tests in made for test in tests})
        print(f"{len(all_tests)} nearest tests on the unchanged source …", flush=True)
        end, output = ended(root, all_tests, BASELINE * options.timeout)
        if end != "passed":
            print(f"{output}\n{end}: there is nothing to tell before they pass")
            return 2
        survivors = []
        for number, mutant, path, tests in made:
            started, source = time.monotonic(), path.read_text()
            path.write_text(source.replace(mutant.old, mutant.new))
            end, output = ended(root, tests, options.timeout)
            path.write_text(source)
            verdict = "killed" if end == "failed" else f"SURVIVED ({end})"
            by = re.search(r"^(?:FAILED|ERROR) (?:\S*/)?(\S+)", output, re.MULTILINE)
            seconds = time.monotonic() - started
            killer = f" by {by[1]}" if by and end == "failed" else ""
            print(
                f"[{number:2}/{len(MUTANTS)}] {mutant.name}: {verdict}{killer}, {seconds:.0f} s", flush=True
            )
            if end != "failed":
                survivors.append(mutant.name)
    print(f"{len(made) - len(survivors)} of {len(made)} killed", *survivors)
    return int(bool(survivors))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print their names and places")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="N")
    parser.add_argument("--to", type=int, default=len(MUTANTS), dest="last", metavar="N")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that the tests of one may take")
    options = parser.parse_args()
    try:
        if options.list:
            for number, mutant in chosen(options):
                print(f"{number:2} {mutant.name}: {place_of(mutant.old, ROOT).relative_to(ROOT)}")
            return
        raise SystemExit(run(options))
    except LookupError as error:
        print(error)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
