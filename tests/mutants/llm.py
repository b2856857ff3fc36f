"""Rows, examples, training, stages and rankings."""

from __future__ import annotations

from tests.mutants.mutant import mutant

ALIGNMENT = "test_alignment.py"
ARCHITECTURE = "test_architecture.py"
OBJECTIVES = "test_objectives.py"
KILLED = "test_killed.py"
CHAT = "test_chat.py"
DPO = "test_dpo.py"
ENGINE = "test_torch_engine.py"
PAIR = "test_preferences.py"
PAIRS = "test_pairs.py"
PAIR_LOSSES = "test_preference_losses.py"
RECORDS = "test_records.py"
KNOWLEDGE = "test_knowledge.py"
LAYOUTS = "test_layouts.py"
WINDOWS = "test_windows.py"
SHARDS = "test_shards_s3.py"
CONTINUATION = "test_continuation.py"
CUT = "test_manager.py::test_a_checkpoint_with_fewer_bytes_than_a_rank_wrote_does_not_count"

BIRTH = "test_birth.py"
INTERNALS = "test_deepspeed_internals.py"
RUNTIME = "test_runtime_settings.py"
DRAWS = "test_draws.py"
EXPORT = "test_export_in_parts.py"
STORED = "test_stored.py"

SELFTEST = "test_selftest.py"

MUTANTS = [
    mutant(
        "cut-answers-end",
        '"rejected" in pair.cut',
        "False",
        "test_preferences.py::test_no_end_of_turn_is_learnt_of_an_answer_that_was_cut",
    ),
    mutant(
        "question-is-its-own-example",
        "if each != item][:count]",
        "][:count]",
        "test_examples.py::test_examples_are_those_that_lm_eval_draws",
    ),
    mutant(
        "code-without-its-tests",
        "sandbox.run(beginning + text, test, LIMITS)",
        'sandbox.run(beginning + text, "", LIMITS)',
        "test_scoring.py::test_code_ends_where_lm_eval_ends_it_and_runs_with_its_tests",
    ),
    mutant("answers-see-ahead", ".triu_(P + 1)", ".triu_(P + 2)", "test_shared_prompts.py"),
    mutant(
        "answers-begin-blind",
        "[first + length - 1, *range(len(row)",
        "[first, *range(len(row)",
        "test_shared_prompts.py",
    ),
    mutant(
        "momentum-is-read-once-at-zero-3",
        "        internals.set_momentum_of_stage_3(engine, momentum)\n",
        "        pass\n",
        "test_sharding.py",
    ),
    mutant(
        "batches-end-where-the-largest-does",
        "engine.set_gradient_accumulation_boundary(number == len(micro_batches))",
        "pass",
        "test_batch_stages.py",
    ),
    mutant(
        "stages-overlap",
        "rows * (min(until, step) - min(start, step))",
        "rows * (min(until, step) - start)",
        "test_order.py",
    ),
    mutant(
        "a-named-matrix-is-skipped",
        "config.targets != DEFAULT_TARGETS and (missing",
        "not config.targets and (missing",
        "test_coverage.py",
    ),
    mutant(
        "gathered-weights-outlive-a-checkpoint",
        "        internals.forget_gathered(engine)\n",
        "        pass\n",
        "test_zero_settings.py::test_no_setting_of_the_exchange_changes_what_is_trained",
    ),
    mutant("fp32-weights-are-copied", "optimizer.device = torch.device(name)", "pass", BIRTH),
    mutant(
        "pieces-are-read-from-their-start",
        "* here.columns + left - here.column\n",
        "* here.columns\n",
        "test_elements.py",
    ),
    mutant(
        "every-stage-takes-as-long-as-the-last",
        "steps = [*self.stage_seconds, self.step_seconds]",
        "steps = [self.step_seconds] * len(config.spans())",
        "test_plan_stages.py",
    ),
    mutant(
        "small-runs-have-no-stages",
        "stretched(whole.batch_stages, steps / whole.steps)",
        "()",
        "test_scaling.py",
    ),
    mutant("garbage-is-kept", "None if step % steps else _collect()", "None", RUNTIME),
    mutant("steps-of-another-artifact-are-goodput", ' if record["step"] >= first)', ")", RUNTIME),
    mutant(
        "elements-lie-elsewhere",
        "return Fragment(here.start, there.start, ",
        "return Fragment(here.start, here.start, ",
        INTERNALS,
    ),
    mutant(
        "a-refused-step-is-made",
        "    engine.optimizer.step = lambda: None\n",
        "",
        INTERNALS,
    ),
    mutant("a-step-of-zeros-counts", "inner_optimizer(engine).state.clear()", "pass", SELFTEST),
    mutant("a-slow-gpu-passes", "low <= reached <= 1", "reached <= 1", "test_planned.py"),
    mutant("a-crash-ends-the-selftest", 'ended = "failed", crash.reason, crash.details', "raise", SELFTEST),
    mutant("last-words-are-lost", "lines = self._last_lines()", "lines = str(os.getpid())", "test_place.py"),
    mutant(
        "a-moved-run-starts-anew",
        "range(checkpoints.restore(), config.steps)",
        "range(0 * checkpoints.restore(), config.steps)",
        SELFTEST,
    ),
    mutant(
        "failed-checks-exit-with-0",
        "    if failed:\n        raise typer.Exit(1)\n\n\n@contextlib",
        "\n\n@contextlib",
        SELFTEST,
    ),
    mutant("draws-start-at-another-word", "[start - first * WORDS :][:count]", "[:count]", DRAWS),
    mutant("the-name-is-not-in-the-key", 'f"{seed}/{name}".encode()', 'f"{seed}".encode()', DRAWS),
    mutant("gains-start-at-one", "return Constant(gain)", "return Constant(1.0)", ARCHITECTURE),
    mutant(
        "a-window-costs-a-row",
        "sliding * min(row_length, window or row_length)",
        "sliding * row_length",
        ARCHITECTURE,
    ),
    mutant("gguf-forgets-windows", 'return "sliding_attention" in (', "return () and (", ARCHITECTURE),
    mutant("padding-is-drawn", "        into[begin:end] = 0.0\n", "", "test_origins.py"),
    mutant(
        "a-file-is-read-from-its-start",
        "offset + (start + first) * dtype.itemsize",
        "offset + first * dtype.itemsize",
        STORED,
    ),
    mutant(
        "the-average-starts-as-nothing",
        "run.values[elements.AVERAGE].copy_(weights)",
        "run.values[elements.AVERAGE].zero_()",
        BIRTH,
    ),
    mutant(
        "resumed-weights-are-made-first",
        "trained=chosen is None and start is None",
        "trained=True",
        BIRTH,
    ),
    mutant("parts-are-not-collected", "            dist.reduce(part, 0)", "            pass", EXPORT),
    mutant(
        "every-stage-builds-a-share",
        "if zero.stage == 3 else FP32 * size",
        "if zero.stage else FP32 * size",
        LAYOUTS,
    ),
    mutant(
        "a-checkpoint-has-no-copy",
        "saving = max(saving, saving_bytes(self.weights, optimizer, workers))",
        "saving = max(saving, 0)",
        LAYOUTS,
    ),
    mutant(
        "the-host-has-room-for-all",
        "and (room.host is None or host_total <= room.host)",
        "and (room.host is None or state.host <= room.host)",
        LAYOUTS,
    ),
    mutant(
        "the-larger-micro-batch-wins",
        "(not row.fits, row.step_seconds, -row.micro_batch, row.zero)",
        "(not row.fits, -row.micro_batch, row.step_seconds, row.zero)",
        LAYOUTS,
    ),
    mutant(
        "stage-two-reduces-once",
        "2: accumulation * reduced + element,",
        "2: reduced + element,",
        "test_step_time.py",
    ),
    mutant(
        "windows-share-a-shuffle",
        "index[here] = start + inverse_permutation(size, seeds, epoch, at[here] - start)",
        "index[here] = start + inverse_permutation(size, derived_seed(seed, 1), epoch, at[here] - start)",
        WINDOWS,
    ),
    mutant(
        "a-rest-is-a-window-of-its-own",
        "np.arange(windows.count + 1) * len(windows.sizes) // windows.count",
        "np.minimum(np.arange(windows.count + 1) * windows.width, len(windows.sizes))",
        WINDOWS,
    ),
    mutant(
        "shards-are-read-by-number",
        "found[np.argsort(places)].tolist()",
        "found.tolist()",
        WINDOWS,
    ),
    mutant(
        "a-mixtures-position-forgets-its-block",
        "return block * quotas[number] + int(",
        "return int(",
        WINDOWS,
    ),
    mutant(
        "nothing-is-closed",
        "                self._open.popitem(last=False)",
        "                break",
        SHARDS,
    ),
    mutant(
        "the-cache-has-no-limit",
        "or (size := size + record.size) > limit",
        "or (size := size + record.size) < 0",
        SHARDS,
    ),
    mutant(
        "chosen-and-rejected-swapped",
        "(a, b) if self.ranks[a] < self.ranks[b]",
        "(a, b) if self.ranks[a] > self.ranks[b]",
        ALIGNMENT,
    ),
    mutant(
        "kept-checkpoints-are-deleted",
        "if not stored.kept and stored not in needed",
        "if stored not in needed",
        CONTINUATION,
    ),
    mutant(
        "the-last-checkpoint-has-the-average",
        "    yield\n    if average is not None:\n        average.swap()",
        "    yield",
        CONTINUATION,
    ),
    mutant(
        "own-checkpoint-is-ignored",
        "if chosen is not None:\n            return self.load(chosen)",
        "if chosen is not None and self.job.start is None:\n            return self.load(chosen)",
        CONTINUATION,
    ),
    mutant("rankings-dropped", "read_rankings(session.store)", "read_rankings(session.store)[:0]", ALIGNMENT),
    mutant(
        "sft-mask-inverted",
        '"mask": pad(self.examples.gather("mask", indices), 0, np.uint8),',
        '"mask": 1 - pad(self.examples.gather("mask", indices), 0, np.uint8),',
        ALIGNMENT,
    ),
    mutant(
        "sums-split-by-their-order",
        "{min(first, second)}+{max(first, second)}",
        "{first}+{second}",
        "test_made_tasks.py",
    ),
    mutant(
        "tokenizer-of-a-task-without-its-words",
        'yield from (message["role"], message["content"])',
        'yield message["role"]',
        "test_fresh.py::test_its_tokenizer_knows_the_tasks_words_and_takes_digits_one_by_one",
    ),
    mutant(
        "blank-is-told", "if _untold(text[start:end], [rest, _title(claim)]):", "if True:", "test_facts.py"
    ),
    mutant(
        "unsure-taught",
        "for each in asked if each.state == state",
        "for each in asked if each.state != state",
        KNOWLEDGE,
    ),
    mutant("refusals-are-wrong", 'return "refused"', 'return "wrong"', KNOWLEDGE),
    mutant("one-order", "else listed[::-1]", "else listed", "test_bias.py"),
    mutant("good-questions-unsigned", "sign = 1 if question.bad else -1", "sign = 1", "test_bias.py"),
    mutant("reply-shifted", "[*between[1:], *_text_ids", "[*between, *_text_ids", "test_turns.py"),
    mutant(
        "replay-of-itself",
        "_bits(weights) == _bits(other[name])",
        "_bits(weights) == _bits(weights)",
        f"{KILLED}::test_a_replay_names_the_first_difference",
    ),
    mutant(
        "gradients-halved",
        "engine.gradient_accumulation_steps() / weight",
        "engine.gradient_accumulation_steps() / weight / 2",
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
        "dpo-prompt-counted",
        "-(answer_losses(model, ids, mask) * mask[:, 1:])",
        "-(answer_losses(model, ids, mask))",
        DPO,
    ),
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
    mutant("one-epoch-order", "np.uint64(epoch & _MASK)", "np.uint64(0)", "test_order.py"),
    mutant(
        "shares-overlap",
        "rows * (rank + 1) // world_size)",
        "rows * (rank + 1) // world_size + 1)",
        "test_order.py",
    ),
    mutant(
        "heldout-is-trained-on",
        "(document_id) < HELDOUT_SHARE",
        "(document_id) >= HELDOUT_SHARE",
        "test_conversations.py",
    ),
    mutant("bytes-of-a-rank-unchecked", "if found != written:", "if False:", CUT),
    mutant(
        "better-by-chance",
        "decided >= DECIDED and rate.low > 0.5",
        "decided >= DECIDED and rate.value > 0.5",
        "test_gate.py::test_the_win_rate_must_be_above_a_half_by_its_interval",
    ),
    mutant(
        "a-judge-that-is-always-as-sure",
        "_sigmoid(low * np.abs(_finite(margins)))",
        "_sigmoid(low * size * np.ones(len(margins)))",
        "test_gate.py::test_honest_rankings_of_answers_that_the_judge_hardly_knows_are_believed",
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
