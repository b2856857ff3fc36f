"""The corpus engine."""

from __future__ import annotations

from tests.mutants.mutant import mutant

FILTERS = "test_filters.py"
LANGUAGES = "test_languages.py"
GOPHER = "test_filters.py::test_each_gopher_repetition_rule_hits_what_it_is_for"
COMMON_CRAWL = "test_common_crawl.py"
CARD = "test_card.py"
OPT_OUTS = "test_opt_outs.py"
MANY_HOSTS = "test_many_hosts.py"
BLOCKS = "test_blocks.py"
DAMAGE = "test_damage.py"
PROXY = "test_proxy.py"
SEPARATE = "test_separate_documents.py::test_positions_count_from_the_last_end"

MUTANTS = [
    mutant(
        "wrong-length-is-believed",
        "if not whole or not self._followed(end + length):",
        "if not whole:",
        f"{DAMAGE}::test_a_wrong_length_costs_one_record_of_an_archive",
    ),
    mutant(
        "record-without-a-type-is-a-note",
        "elif not record.record_type & notes() and wanted(target(record)):",
        'elif record.headers.get("WARC-Type") and wanted(target(record)):',
        f"{DAMAGE}::test_a_record_that_does_not_say_what_it_is_is_unread",
    ),
    mutant(
        "bomb-is-read-to-its-end",
        "if (over := self._unpacked_end - allowed) > 0:",
        "if (over := self._unpacked_end - allowed) > 1 << 40:",
        f"{DAMAGE}::test_a_file_that_unpacks_to_far_more_than_text_is_read_to_there",
    ),
    mutant(
        "certificates-of-the-environment-are-not-known",
        "ssl=tls_context(),",
        "ssl=True,",
        "test_proxy_tls.py::test_a_crawl_of_https_pages_goes_through_the_proxys_tunnel",
    ),
    mutant(
        "zeros-end-a-tar",
        'errorlevel=2, encoding="utf-8", ignore_zeros=True',
        'errorlevel=2, encoding="utf-8"',
        f"{DAMAGE}::test_a_damaged_header_costs_one_member_of_a_tar_archive",
    ),
    mutant(
        "rows-of-an-open-quote-are-lost",
        "self._again += reversed(self._row[1:])",
        "self._again += []",
        f"{DAMAGE}::test_a_quoted_field_that_does_not_end_costs_one_row",
    ),
    mutant(
        "proxy-gets-every-name",
        "await self._resolver.check(host)",
        "pass",
        f"{PROXY}::test_a_crawl_checks_a_name_before_the_proxy_gets_it",
    ),
    mutant(
        "credentials-in-the-archive",
        "if each[0].lower() != PROXY_AUTHORIZATION",
        "if each[0]",
        f"{PROXY}::test_a_crawl_goes_through_the_proxy_and_keeps_its_credentials_to_itself",
    ),
    mutant(
        "likeliest-block-alone",
        "order[: int(np.argmax(expected)) + 1]",
        "order[:1]",
        f"{BLOCKS}::test_no_other_choice_of_blocks_has_a_higher_expected_f1",
    ),
    mutant(
        "tree-goes-left-below",
        "<= threshold[node] else right[node]",
        "< threshold[node] else right[node]",
        f"{BLOCKS}::test_a_row_goes_left_where_its_feature_is_at_most_the_threshold",
    ),
    mutant(
        "every-number-a-name",
        'name_groups(NUMBER.sub("0", name))',
        "name_groups(name)",
        f"{BLOCKS}::test_numbered_names_are_looked_up_once",
    ),
    mutant(
        "last-rule-decides",
        "hit = alive & among & np.asarray(rule.hits(scores), bool)",
        "hit = among & np.asarray(rule.hits(scores), bool)",
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
    mutant(
        "wider-gaps-are-fetched",
        "offsets[last] - end <= gap",
        "offsets[last] - end <= 2 * gap + 1",
        f"{COMMON_CRAWL}::test_requests_cover_every_page_once_and_no_wider_gap",
    ),
    mutant(
        "resumed-unit-starts-over",
        "first = position.begin.offset if position.begin else 0\n    requests",
        "first = 0\n    requests",
        f"{COMMON_CRAWL}::test_a_killed_run_goes_on_after_its_last_part_and_gives_the_same_bytes",
    ),
    mutant(
        "domain-by-sort-key-alone",
        'return there & ((host == domain) | pc.ends_with(host, f".{domain}"))',
        "return there",
        f"{COMMON_CRAWL}::test_conditions_select_exactly",
    ),
    mutant(
        "index-read-without-statistics",
        'return there & ((host == domain) | pc.ends_with(host, f".{domain}"))',
        'return (host == domain) | pc.ends_with(host, f".{domain}")',
        f"{COMMON_CRAWL}::test_an_index_file_without_the_domain_is_not_read_beyond_its_footer",
    ),
    mutant(
        "any-language-of-the-page",
        'first = pc.list_element(pc.split_pattern(ds.field("content_languages"), ","), 0)',
        'first = pc.utf8_slice_codeunits(ds.field("content_languages"), -3, 7)',
        f"{COMMON_CRAWL}::test_conditions_select_exactly",
    ),
    mutant(
        "sample-ignores-its-seed",
        'url.encode("utf-8", "surrogatepass"), seed)',
        'url.encode("utf-8", "surrogatepass"), 0)',
        f"{COMMON_CRAWL}::test_a_sample_depends_on_seed_and_url_alone",
    ),
    mutant(
        "unreachable-file-counts-as-read",
        'if problem.reason in ("not_found", CUT):',
        "if True:",
        "test_common_crawl_failures.py::test_a_file_that_cannot_be_reached_stops_the_run_which_goes_on_later",
    ),
    mutant(
        "credentials-on-the-card",
        'netloc=parts.netloc.rpartition("@")[2], query=""',
        'query=""',
        f"{CARD}::test_credentials_do_not_get_into_a_card",
    ),
    mutant(
        "columns-row-by-row",
        "gutter = _gutter(segments) if depth < DEEPEST else None",
        "gutter = None",
        "test_pdf.py::test_columns_are_read_one_after_the_other_below_a_title_over_both",
    ),
    mutant(
        "page-numbers-stay",
        "or len(counted) >= needed or same & counted",
        "or False",
        "test_pdf.py::test_running_headers_footers_and_page_numbers_go_and_headings_stay",
    ),
    mutant(
        "compounds-lose-their-hyphen",
        'or f"{first.group(1)}-{second.group(0)}" not in whole',
        "or True",
        "test_pdf.py::test_a_divided_word_is_joined_and_a_compound_keeps_its_hyphen",
    ),
    mutant(
        "entities-allowed",
        'if b"<!ENTITY" in content',
        'if b"<!NOTHING" in content',
        "test_packages.py::test_a_document_that_cannot_be_read_is_refused_by_name",
    ),
    mutant(
        "archives-without-end",
        'left -= len(member.content or b"")',
        "left -= 0",
        "test_document_files.py::test_archives_that_unpack_without_end_are_ended",
    ),
    mutant(
        "redirects-are-pages",
        'redirect = redirect or name == "redirect"',
        "redirect = False",
        "test_dumps.py::test_a_dump_gives_its_articles_and_names_the_other_pages",
    ),
    mutant(
        "key-without-the-filters-file",
        'return {**values, "source": read_plugin(name, SETTING).source}',
        'return {**values, "source": " "}',
        "test_custom.py::test_the_key_follows_the_file_and_not_its_absence",
    ),
    mutant(
        "other-languages-measured",
        "found.left_out = True\n                break",
        "found.left_out = True",
        f"{LANGUAGES}::test_a_text_in_another_language_is_not_measured_further",
    ),
    mutant(
        "english-words-for-all",
        "found.splitter = language.splitter",
        "pass",
        f"{LANGUAGES}::test_a_good_text_is_kept_in_its_language",
    ),
    mutant(
        "limits-above-own-settings",
        "new = {name: value for name, value in values.items() if name not in kept}",
        "new = dict(values)",
        f"{LANGUAGES}::test_a_setting_that_differs_from_its_default_holds_for_all_languages",
    ),
    mutant(
        "header-above-the-pages-own-word",
        "found.discard(TDM)",
        "pass",
        f"{OPT_OUTS}::test_opt_outs_of_headers_and_tags",
    ),
    mutant(
        "site-rules-not-obeyed",
        "if self._source.obey_opt_outs and site & REFUSING:",
        "if False:",
        f"{OPT_OUTS}::test_pages_that_their_site_excludes_are_not_asked_for",
    ),
    mutant(
        "pages-without-a-type-are-no-html",
        'return [found.url, f"{found.origin}{path}.html"]',
        "return [found.url]",
        f"{OPT_OUTS}::test_files_of_a_site_exclude_its_pages",
    ),
    mutant(
        "opt-outs-forgotten-by-the-archive",
        "fields[OPT_OUTS] = ",
        "fields['X'] = ",
        f"{OPT_OUTS}::test_opt_outs_that_are_not_obeyed_go_with_the_documents",
    ),
    mutant(
        "host-lost-between-exchanges",
        "self._open.set()\n        self._drop_ended()",
        "self._open.set()",
        f"{MANY_HOSTS}::test_a_host_whose_last_page_came_as_an_exchange_ended_is_served_on",
    ),
    mutant(
        "one-url-of-a-pattern-less",
        "return int(count) > self._source.max_per_pattern",
        "return int(count) >= self._source.max_per_pattern",
        f"{MANY_HOSTS}::test_a_web_of_all_kinds_gives_the_golden_pages_each_once",
    ),
    mutant(
        "no-pause-after-a-failure",
        "            finally:\n                self.pause(self.delay)",
        "            else:\n                self.pause(self.delay)",
        f"{MANY_HOSTS}::test_a_web_of_all_kinds_gives_the_golden_pages_each_once",
    ),
    mutant(
        "rules-of-today-without-the-site",
        "marks |= site.of(found) & REFUSING",
        "pass",
        "test_update.py::test_what_sites_exclude_today_is_forgotten_and_shown_by_domain",
    ),
    mutant(
        "dates-of-the-last-part",
        'dates = [*self.dates, *row["dates"]]',
        'dates = row["dates"]',
        "test_card.py::test_an_addition_adds_its_source_to_the_card",
    ),
    mutant(
        "languages-added-afterwards",
        "set(wanted.languages) <= set(self.languages)",
        "bool(wanted.languages)",
        "test_rescore.py::test_rescoring_refuses_settings_that_stored_scores_cannot_answer",
    ),
]
