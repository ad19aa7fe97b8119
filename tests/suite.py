"""What the suite knows of its own files: which take long, and which coverage need not measure."""

LONGEST = (
    "tests/simulation/test_seeds.py",
    "tests/runtime/test_stops_over_crashes.py",
    "tests/integration/test_kills.py",
    "tests/runtime/test_bench.py",
    "tests/integration/test_requests.py",
    "tests/integration/test_life.py",
    "tests/integration/test_same_trades.py",
    "tests/portfolio/test_allocations.py",
    "tests/runtime/cli/test_replay.py",
    "tests/simulation/test_mutants.py",
    "tests/test_tutorial.py",
    "tests/integration/test_stops.py",
    "tests/portfolio/test_views.py",
    "tests/portfolio/test_watchdog.py",
    "tests/runtime/test_matching.py",
    "tests/runtime/test_compare.py",
    "tests/runtime/test_example_bots.py",
    "tests/execution/test_totals.py",
    "tests/runtime/test_mqtt_over_sockets.py",
)
"""The files that take longest are begun first, so that no worker is left alone with one of them at the end."""

UNMEASURED = (
    "tests/properties/",
    "tests/simulation/",
    "tests/integration/test_kills.py",
    "tests/integration/test_same_trades.py",
    "tests/integration/test_stops.py",
    "tests/portfolio/test_allocations.py::test_whatever_happens_the_stored_allocations_equal_those_from_scratch",
    "tests/portfolio/test_views.py::test_views_equal_the_application_and_naive_sums",
    "tests/portfolio/test_watchdog.py::test_sound_books_are_never_doubted",
    "tests/execution/test_totals.py::test_kept_sums_and_what_came_after_them_are_the_sums_of_all_facts",
    "tests/runtime/test_bench.py",
    "tests/runtime/test_codec.py::test_no_bytes_raise",
    "tests/runtime/test_codec.py::test_no_document_raises_or_smuggles_a_number_in",
    "tests/runtime/test_compare.py::test_two_cores_give_the_same_rows_as_one",
    "tests/runtime/test_example_bots.py::test_every_example_trades_on_hourly_candles_and_sells_what_it_bought",
    "tests/runtime/test_stops_over_crashes.py",
    "tests/signals/test_service.py::test_a_restart_in_the_middle_changes_nothing_later",
    "tests/signals/test_service.py::test_changing_later_candles_changes_nothing_earlier",
    "tests/test_tutorial.py",
)
"""Where the same code runs thousands of times, or in processes that are killed: coverage would only make it slow."""
