"""What keeps one tenant, handler or web page from hurting another, broken on purpose (`tests/harm`)."""

from tests.mutants.workshop import Edit, Mutant

COSTLY = "tests/harm/test_costly_requests.py::test_nobody_waits_for_a_costly_request"

HARM = (
    Mutant(
        "a payload is validated whatever it costs",
        (Edit("app/accepted/services/schema_cost.py", "if steps > MAX_STEPS and", "if steps < 0 and"),),
        (COSTLY + "[4,900 parts over 60,000 items]",),
    ),
    Mutant(
        "every unknown name has a hint",
        (
            Edit("app/accepted/errors.py", "MAX_HINTS = 5", "MAX_HINTS = 5000"),
            Edit("app/accepted/errors.py", "MAX_COMPARED = 200", "MAX_COMPARED = 5000"),
        ),
        (COSTLY + "[200 unknown names]",),
    ),
    Mutant(
        "a large body is read at once",
        (Edit("app/accepted/domain/json_pieces.py", "LARGE = 32 * 1024", "LARGE = 2**30"),),
        (COSTLY + "[16 MiB of empty members]",),
    ),
    Mutant(
        "a page is served under any name that leads to loopback",
        (Edit("app/accepted/api/http/exposure.py", "return Misdirected()", "continue"),),
        ("tests/harm/test_web_pages.py::test_a_page_cannot_submit_under_its_own_name",),
    ),
)
