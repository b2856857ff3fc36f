"""Reinforcement learning: rollouts, objectives, rewards, arrivals."""

from __future__ import annotations

from tests.mutants.mutant import mutant

ALIGNMENT = "test_alignment.py"
ROLLOUTS = "test_worker.py"
BATCHES = "test_batches.py"
LOSSES = "test_losses.py"
CORRECTION = "test_correction.py"
ARRIVALS = "test_arrivals.py"
JOURNAL = "test_journal.py"
KILLED = "test_killed.py"
ONCE = f"{KILLED}::test_every_prompt_is_trained_once_whatever_is_killed[async-some]"
LEARNER = f"{BATCHES}::test_the_learner_is_given_the_answers_tokens_alone_to_learn"
POLICY = f"{BATCHES}::test_the_policy_loss_is_the_surrogate_plus_the_weighted_kl_over_answer_tokens"
ADVANTAGES = f"{BATCHES}::test_advantages_compare_the_answers_to_one_prompt_with_each_other"
FETCHED = f"{ROLLOUTS}::test_a_worker_fetches_the_weights_of_the_version_that_it_is_asked_for"
BOARD = f"{ROLLOUTS}::test_the_board_gives_out_what_is_there_and_refuses_what_is_not"

MUTANTS = [
    mutant("kl-sign", "surrogate + self.kl * penalty", "surrogate - self.kl * penalty", ALIGNMENT),
    mutant(
        "prompt-in-rl-mask",
        "mask.append(np.concatenate([blank, learnt]))",
        "mask.append(np.concatenate([blank + 1, learnt]))",
        ALIGNMENT,
    ),
    mutant(
        "advantages-grouped-wrongly",
        "np.nan_to_num(rewards).reshape(-1, group)",
        "np.nan_to_num(rewards).reshape(group, -1).T",
        ALIGNMENT,
    ),
    mutant(
        "reward-negated",
        "return config.reward_model_weight * rollouts.model_rewards + ",
        "return -config.reward_model_weight * rollouts.model_rewards + ",
        ALIGNMENT,
    ),
    mutant(
        "made-prompts-split-by-number",
        'else task.prompt[-1]["content"]',
        "else str(number)",
        "test_made_tasks.py",
    ),
    mutant(
        "prompt-in-rl-kl",
        "torch.where(mask != 0, -losses, 0)",
        "-losses",
        f"{BATCHES}::test_a_prompt_of_tiny_probability_leaves_loss_and_gradient_finite",
    ),
    mutant("rollouts-of-one-worker", "place * count // of == n", "0 == n", BATCHES),
    mutant("answers-not-judged-learnt", "sampled(completion) & valid", "sampled(completion)", BATCHES),
    mutant("replies-learnt", "sampled(completion) & valid", "valid | sampled(completion)", "test_turns.py"),
    mutant("reply-has-likelihood", "[math.nan] * len(ids)", "[0.0] * len(ids)", "test_turns.py"),
    mutant("turns-reseeded", "derived_seed(episodes[i].seed, turn) if turn", "0 if turn", "test_turns.py"),
    mutant(
        "cut-episodes-judged", 'replace(completion, finish_reason="length")', "completion", "test_turns.py"
    ),
    mutant("numbers-start-again", "first=len(read_numbered(seen)) + 1", "first=1", "test_turns.py"),
    mutant("policy-temperature", "temperature=self.temperature)", "temperature=1.0)", POLICY),
    mutant(
        "old-logprobs-shifted",
        "[blank, np.where(learnt, completion.logprobs, 0)]",
        "[completion.logprobs, blank]",
        LEARNER,
    ),
    mutant("reference-is-policy", "np.concatenate([blank, given])", "old[-1]", LEARNER),
    mutant("grpo-advantages-alone", "ESTIMATORS[config.advantage]", 'ESTIMATORS["grpo"]', ADVANTAGES),
    mutant("weights-of-any-version", "if first <= v < version}", "}", BOARD),
    mutant("stale-rollouts", "if publication != self.held:", "if False:", FETCHED),
    mutant("truncation", "np.minimum(ratios, cap) *", "ratios *", CORRECTION),
    mutant("importance-unused", 'surrogate * batch["importance"][:, 1:]', "surrogate", CORRECTION),
    mutant("answers-left-out-by-sums", ".sum(axis=1) / lengths", ".sum(axis=1)", CORRECTION),
    mutant("mismatch-allowed", "if apart > config.mismatch_limit:", "if apart > 1e9:", "test_mismatch.py"),
    mutant("staler-by-one", "version + self.staleness + 1 -", "version + self.staleness + 2 -", ARRIVALS),
    mutant("too-old-left-behind", "if too_old > later * self.prompts:", "if False:", ARRIVALS),
    mutant("prompts-beyond-the-run", "or self._next < self._end)", "or True)", ARRIVALS),
    mutant("journal-unchecked", "hexdigest().encode() != digest:", "hexdigest() == digest:", JOURNAL),
    mutant("starts-that-add-up", "earlier.step < start.step]", "True]", JOURNAL),
    mutant("prompts-skipped", "waiting=arrivals.waiting()", "waiting=[]", ONCE),
    mutant("journal-unread", "while formed in there:", "while False:", ONCE),
    mutant(
        "turns-by-chance",
        "taken.sort(key=lambda arrived: arrived.position)",
        "pass",
        f"{KILLED}::test_a_run_that_takes_turns_ends_with_the_bits_of_one_that_was_not_killed[some]",
    ),
    mutant("grpo-divisor", "keepdims=True) / np.maximum(counts - 1, 1)", "keepdims=True) / counts", LOSSES),
    mutant("rloo-with-itself", "centred * counts / np.maximum(counts - 1, 1)", "centred", LOSSES),
    mutant(
        "clip-by-maximum",
        "-torch.minimum(ratio * advantages",
        "-torch.maximum(ratio * advantages",
        LOSSES,
    ),
    mutant("kl-direction", "difference = reference - logprobs", "difference = logprobs - reference", LOSSES),
    mutant("repeated-words", "len({*content}) == len(content) and ", "", "test_verifiers.py"),
    mutant("repeated-pairs", "len({*pairs}) == len(pairs) and ", "", "test_verifiers.py"),
    mutant("empty-headlines", "max(CONTENT, len(content))", "len(content)", "test_verifiers.py"),
    mutant(
        "ranked-prompts-judged",
        "if not asked[-1].verifiable:",
        "if asked[-1].verifiable and False:",
        "test_judge.py::test_no_verifier_is_asked_about_a_task_that_it_cannot_judge",
    ),
    mutant(
        "ranked-prompts-of-today",
        "if not output.exists(FILE):",
        "if True:",
        "test_ranked_prompts.py",
    ),
    mutant("gibberish-wins", "candidate <= served + config.max_surprise", "True", "test_gate.py"),
]
