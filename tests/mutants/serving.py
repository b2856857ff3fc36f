"""The endpoint and the commands."""

from __future__ import annotations

from tests.mutants.mutant import mutant

START_FROM = "test_start_from.py"
LIVE, LIVE_WEB = "test_live.py", "test_live_web.py"

WHEREVER = "test_resuming.py::test_wherever_a_replica_dies_the_answer_is_the_undisturbed_one"

MUTANTS = [
    mutant(
        "trace-forgets-the-run-before",
        "return [*(each for each in before if each[1]), (self",
        "return [(self",
        START_FROM,
    ),
    mutant(
        "references-left-behind",
        'f"#{place}{value[1:]}"',
        "value",
        "test_tool_calls.py::test_a_models_forced_call_is_a_call_with_references_resolved",
    ),
    mutant("unknown-functions", 'given.get("name") not in self._names', "False", "test_tool_calls.py"),
    mutant("tags-shown", "if text.endswith(OPEN[:n])), 0)", "if False), 0)", "test_tool_calls.py"),
    mutant(
        "told-twice",
        "itertools.islice(all_events, past.events, None)",
        "all_events",
        f"{WHEREVER}[quotations]",
    ),
    mutant(
        "tokens-forgotten",
        "engine.stream(prompt, sampling, decisions.ids(choice))",
        "engine.stream(prompt, sampling)",
        f"{WHEREVER}[written with sources]",
    ),
    mutant(
        "replicas-draw-apart", "seed=secrets.randbits(63)", "seed=None", f"{WHEREVER}[no seed, stop strings]"
    ),
    mutant(
        "own-errors-repeated",
        "not isinstance(error, LOST) or ",
        "",
        "test_resuming.py::test_a_full_queue_refuses_new_requests_but_not_those_that_were_in_before",
    ),
    mutant(
        "choices-share-seeds",
        "derived_seed(seed, choice)\n\n\ndef _told",
        "seed + choice\n\n\ndef _told",
        "test_answer.py",
    ),
    mutant(
        "traces-end-at-the-door",
        "await self._enter(traces.below(scope, span), ",
        "await self._enter(traces.untraced(scope), ",
        "test_traces.py",
    ),
    mutant(
        "clients-trace-forgotten",
        '.extract({"traceparent": given[-1]}) if given',
        ".extract({}) if given",
        "test_traces.py",
    ),
    mutant(
        "spans-quote",
        "super().on_end(_without_messages(span))",
        "super().on_end(span)",
        "test_traces.py",
    ),
    mutant(
        "spans-apart",
        "self._pool.submit(contextvars.copy_context().run, work)",
        "self._pool.submit(work)",
        "test_traces.py",
    ),
    mutant("any-name-is-local", "is_loopback(_host(scope[", "bool(_host(scope[", "test_hostile.py"),
    mutant("never-too-many", "self._answering >= self.config.max_requests", "False", "test_hostile.py"),
    mutant("door-left-late", "self._inside -= inside  # whoever", "inside -= 0  # whoever", "test_door.py"),
    mutant("door-open", "return self._inside >= self._most", "return False", "test_door.py"),
    mutant(
        "refused-behind-those-let-in",
        "await self._quiet()  # what has come meanwhile",
        "await asyncio.sleep(0)  # what has come meanwhile",
        "test_door.py",
    ),
    mutant("refused-late", 'scope["method"] == "POST" and self._backend.full', "False", "test_door.py"),
    mutant(
        "door-counts-dribblers",
        "                self._check(counted)\n                declared",
        "                self._inside += counted\n                declared",
        "test_door.py",
    ),
    mutant(
        "health-of-another-name",
        "host != self._host or self._asked is None",
        "self._asked is None",
        "test_door.py",
    ),
    mutant("health-never-fresh", "time.monotonic() - told < FRESH_SECONDS", "False", "test_door.py"),
    mutant("body-without-end", "asyncio.timeout(BODY_SECONDS)", "asyncio.timeout(None)", "test_door.py"),
    mutant(
        "tokens-of-others",
        "self._own.get(day, {}).get(key, Used()).tokens + others.get(key, Used()).tokens",
        "self._own.get(day, {}).get(key, Used()).tokens",
        "test_quotas.py::test_a_days_tokens_are_those_of_all_replicas_and_of_those_before",
    ),
    mutant(
        "cut-answers-free",
        "if cut := sum(self._pieces.values()):",
        "if cut := 0:",
        "test_quotas.py::test_an_answer_that_is_not_read_to_its_end_counts_all_the_same",
    ),
    mutant(
        "servers-limit-first",
        "return default if own is None else own",
        "return own if default is None else default",
        "test_quotas.py::test_a_keys_own_limits_stand_before_the_servers",
    ),
    mutant(
        "revoked-keys-stay",
        "if mark != self._seen:",
        "if False:",
        "test_quotas.py::test_a_file_that_changes_is_read_again_and_a_wrong_one_keeps_the_keys",
    ),
    mutant(
        "two-host-headers",
        "if len(found) == 1 else",
        "if found else",
        "test_connections.py::test_two_names_are_none",
    ),
    mutant(
        "schemas-stop-all",
        "                self.engine.prepare(schema)",
        "                pass",
        "test_shared.py::test_a_schema_is_compiled_in_its_own_callers_thread",
    ),
    mutant(
        "references-without-end",
        '"references", references,',
        '"references", 0,',
        "test_guided.py::test_a_schema_that_could_end_the_process_is_refused_before_it_is_compiled",
    ),
    mutant(
        "patterns-without-end",
        'together or name == "allOf"',
        "together",
        "test_guided.py::test_a_schema_that_could_end_the_process_is_refused_before_it_is_compiled",
    ),
    mutant(
        "keys-by-equality",
        "hmac.compare_digest(digest, key.digest)",
        "digest == key.digest",
        "test_keys.py::test_every_key_is_compared_in_constant_time",
    ),
    mutant("any-scheme", 'scheme.lower() != "bearer" or ', "", "test_keys.py::test_keys_are_compared_whole"),
    mutant("follow-up-alone", "if not before or not (back or on or not own):", "if True:", "test_query.py"),
    mutant(
        "first-promotion-served",
        "next(reversed(promotions(store, recipe)), None)",
        "next(iter(promotions(store, recipe)), None)",
        "test_promotion.py::test_a_roll_back_serves_the_model_before_and_keeps_every_record",
    ),
    mutant(
        "redirects-unread-robots",
        "                if not rules.allows(found.url):",
        "                if False:",
        f"{LIVE}::test_redirects_are_followed_as_often_as_set_with_the_robots_txt_of_each_host",
    ),
    mutant(
        "web-opt-outs-ignored",
        "self._config.user_agent) & OBEYED",
        "self._config.user_agent) & set()",
        f"{LIVE}::test_robots_txt_and_opt_outs_are_obeyed",
    ),
    mutant(
        "addresses-told",
        '"" if error.reason in UNTOLD else error.detail',
        "error.detail",
        f"{LIVE}::test_no_redirect_leads_into_the_own_network",
    ),
    mutant(
        "no-store-kept",
        '"no-store" not in response',
        '"no-stare" not in response',
        f"{LIVE}::test_two_questions_fetch_a_page_once_until_its_time_is_over",
    ),
    mutant(
        "leavers-end-all",
        "if not making.waiting and not",
        "if not",
        f"{LIVE}::test_questions_at_the_same_time_fetch_a_page_once_and_one_that_goes_does_not_end_it",
    ),
    mutant(
        "pages-searched-for-anyway",
        "not options.urls and not (named and named[-1])",
        "True",
        f"{LIVE_WEB}::test_a_follow_up_is_about_the_page_of_the_question_before",
    ),
    mutant(
        "web-unasked",
        "config.by_default if options.web is None else options.web",
        "True",
        f"{LIVE_WEB}::test_the_settings_say_what_may_be_read",
    ),
    mutant(
        "origin-lost",
        'isinstance(passage, WebPassage) else "index"',
        'False else "index"',
        f"{LIVE_WEB}::test_a_written_sentence_cites_the_page_that_supports_it",
    ),
    mutant(
        "another-models-answer",
        "job = seeded(replace(await make(), model=model))",
        "job = seeded(await make())",
        "test_models.py::test_the_model_of_a_request_answers_it_everywhere",
    ),
    mutant(
        "files-swapped-under-a-request",
        "if self.mark and self.mark != mark_of(self.folder):",
        "if False:",
        "test_model_list.py::test_files_that_changed_under_a_request_do_not_answer_it",
    ),
    mutant(
        "anyone-adds-models",
        "check_role(request.state.key, ADMIN)\n    wanted = parse(ModelRequest,",
        "wanted = parse(ModelRequest,",
        "test_models.py::test_models_are_added_swapped_and_removed_by_admins_while_it_runs",
    ),
    mutant(
        "dropped-while-in-use",
        "if not needed and not self._held[served].uses:",
        "if not needed:",
        "test_model_list.py::test_a_model_in_use_is_not_dropped",
    ),
    mutant(
        "parity-of-the-first-alone",
        "if (record := record_of(served)) is not None:",
        "if (record := record_of(served)) is not None and not served.base:",
        "test_model_list.py::test_the_parity_gate_holds_for_an_adapter",
    ),
]
