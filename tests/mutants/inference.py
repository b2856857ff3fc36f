"""The engine: batches, sampling, guided decoding, adapters, OpenVINO."""

from __future__ import annotations

from tests.mutants.mutant import mutant

ROLLOUTS = "test_worker.py"
ENGINE = "test_torch_engine.py"
BATCHING = "test_batching.py"
BUDGET = "test_guided.py::test_every_text_conforms_within_any_budget_that_the_shortest_fits[person]"
PENALTIES = "test_sampling.py::test_presence_and_frequency_penalties_are_openais_over_the_completion_alone"
OWN = "test_sampling.py::test_log_probabilities_and_their_rivals_are_the_models_own_whatever_is_cut_or_added"
CUTS = "test_sampling.py::test_cuts_leave_the_distribution_that_transformers_leaves"
LEAST = "test_sampling.py::test_a_completion_has_its_least_tokens_and_can_ignore_the_end"
REPORTED = f"{ROLLOUTS}::test_a_worker_reports_the_log_probabilities_of_the_policy_and_of_the_reference"

MUTANTS = [
    mutant("closed-streams-run-on", "self._batch.cancel(stream.handle)", "pass", "test_shared.py"),
    mutant(
        "penalties-of-prompts",
        "torch.tensor(self.ids, device=device).unique",
        "torch.tensor([*self.prompt, *self.ids], device=device).unique",
        PENALTIES,
    ),
    mutant("frequency-once", "given.frequency_penalty * counts", "given.frequency_penalty", PENALTIES),
    mutant(
        "rivals-of-what-is-left",
        "log_probability(own_BV / (temperature or 1), tokens_B)",
        "log_probability(edited_BV / (temperature or 1), tokens_B)",
        OWN,
    ),
    mutant(
        "min-p-of-the-whole",
        "logits_BV.amax(-1, keepdim=True) + float(np.log(min_p))",
        "float(np.log(min_p))",
        CUTS,
    ),
    mutant(
        "ends-too-soon",
        "elif len(self.ids) < given.min_tokens:\n            logits_V",
        "elif False:\n            logits_V",
        LEAST,
    ),
    mutant("end-without-room", "len(end.ids) + 2 > left", "len(end.ids) > left", BUDGET),
    mutant(
        "unfinished-json", "= self._by_bytes.is_accepting()\n        return", "= True\n        return", BUDGET
    ),
    mutant(
        "minimum-by-the-lowest-digit",
        "sorted(allowed, key=DIGITS.find)",
        "allowed",
        "test_guided.py::test_a_text_without_room_is_no_longer_than_the_shortest_that_conforms",
    ),
    mutant(
        "prefixes-of-older-weights",
        "[prefix for prefix in self._held if prefix.version == version]",
        "[*self._held]",
        "test_prefixes.py::test_keys_of_older_weights_are_not_used",
    ),
    mutant(
        "prefix-without-limit",
        "while self.bytes > self.limit:",
        "while False:",
        "test_prefixes.py::test_the_limit_of_bytes_holds_and_what_was_unused_for_longest_goes_first",
    ),
    mutant(
        "first-in-first-out",
        "self._held.append(prefix)",
        "self._held.insert(0, prefix)",
        "test_prefixes.py::test_the_limit_of_bytes_holds_and_what_was_unused_for_longest_goes_first",
    ),
    mutant("top-p-one-token-more", "(before_BV < top_p)", "(before_BV <= 1.0)", ENGINE),
    mutant("next-key-seen", "hidden = key > query", "hidden = key > query + 1", BATCHING),
    mutant("window-longer", "hidden |= key <= query - window", "hidden |= key < query - window", BATCHING),
    mutant("slot-not-cleared", "tensor[row].zero_()", "tensor[row]", BATCHING),
    mutant("keys-not-moved", "tensor[target] = tensor[source]", "tensor[target]", BATCHING),
    mutant("padding-written", "if min(counts) < longest:", "if False:", BATCHING),
    mutant(
        "position-of-the-longest", "one.length for one in rows]", "rows[0].length for _ in rows]", BATCHING
    ),
    mutant(
        "guide-forgets-the-past",
        "                self.guide.take_again(id, self.sampling.max_tokens - len(self.ids))",
        "                pass",
        "test_resuming.py::test_wherever_a_replica_dies_the_answer_is_the_undisturbed_one[JSON Schema]",
    ),
    mutant(
        "past-unread",
        "text=(*prompt, *said),",
        "text=tuple(prompt),",
        "test_batching.py::test_a_completion_goes_on_behind_any_of_its_ids_as_if_it_had_not_stopped",
    ),
    mutant("draws-repeated", "row.uniforms[len(row.ids)]", "row.uniforms[0]", BATCHING),
    mutant("keys-of-old-weights", "not other.placed or other.version == version", "True", BATCHING),
    mutant("half-read-by-old-weights", "one.placed and one.version != version", "False", BATCHING),
    mutant("group-read-apart", "if coming > length and (", "if False and (", BATCHING),
    mutant(
        "shared-beginning-too-long",
        "best, source = min(shared, other.length), o",
        "best, source = shared, o",
        BATCHING,
    ),
    mutant("batch-too-wide", "if self._rows or entering:", "if False:", BATCHING),
    mutant(
        "temperature-upside-down",
        "logits_BV / temperature",
        "logits_BV * temperature",
        REPORTED,
    ),
    mutant(
        "parity-by-mean-alone",
        "apart.mean() <= bound.mean and apart.max() <= bound.largest",
        "apart.mean() <= 1e9 * bound.mean",
        "test_parity.py",
    ),
    mutant(
        "first-forced-end-counts",
        "if queue and bound > queue[0][0]:",
        "if False:",
        "test_guided.py::test_a_text_without_room_is_no_longer_than_the_shortest_that_conforms",
    ),
    mutant(
        "int8-of-other-steps",
        "np.rint(values_OI / scale_O1)",
        "np.floor(values_OI / scale_O1)",
        "test_openvino.py::test_int8_rounds_each_row_to_255_steps",
    ),
    mutant(
        "kernel-fails-silently",
        """        self._request.start_async()
        self._request.wait()""",
        "        self._request.infer()",
        "test_openvino.py::test_a_failing_kernel_is_an_error",
    ),
    mutant(
        "blocks-lost",
        """        self.clear(target)
        self._tables[target], self._tables[source]""",
        "        self._tables[target], self._tables[source]",
        "test_openvino.py::test_blocks_are_given_back",
    ),
    mutant(
        "openvino-reports",
        'sys.modules.setdefault("openvino_telemetry", None)',
        'sys.modules.get("openvino_telemetry", None)',
        "test_backend.py::test_openvino_reports_to_nobody",
    ),
    mutant(
        "keys-of-another-adapter",
        "other.adapter is self._rows[row].adapter and (",
        "(",
        "test_adapted.py::test_rows_of_two_adapters_and_of_none_share_a_batch[plain]",
    ),
    mutant(
        "prefixes-of-another-adapter",
        "prefix.start == start and prefix.adapter == adapter",
        "prefix.start == start",
        "test_adapted.py::test_rows_of_two_adapters_and_of_none_share_a_batch[plain]",
    ),
    mutant(
        "adapter-for-all-rows",
        "y.index_add_(0, rows, product(x[rows]))",
        "y += product(x)",
        "test_adapted.py::test_rows_of_two_adapters_and_of_none_share_a_batch[plain]",
    ),
    mutant(
        "adapter-of-another-base",
        "if matrices[name] != (layer.outputs, layer.inputs):",
        "if False:",
        "test_adapted.py::test_an_adapter_of_another_base_is_refused_before_it_is_loaded",
    ),
]
