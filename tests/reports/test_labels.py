"""Options of labels at the commands `report` and `compare`, and what their messages show."""

from pathlib import Path

import pytest
from pages import TableMaker

from cxrbatch import cli

PAIRS = [(0, 0), (0, 1), (1, 1), (2, 2), (3, 3), (1, 1), (2, 0), (3, 3)]


def office_list(table: Path, rows: list[tuple[str, str]], label: str = "Klasse") -> Path:
    """A list in German, with persons that nobody is to see."""
    file = table.with_name("Liste.csv")
    lines = [f"Bilddatei;Name;Zugangsnummer;Patientennummer;{label}"]
    lines += [f"{p};CANARY^{n};CANARY77{n};CANARY88;{c}" for n, (p, c) in enumerate(rows)]
    file.write_bytes("\r\n".join(lines).encode("cp1252"))
    return file


def paths_of(table: Path) -> list[str]:
    from cxrbatch.results.frames import load_results

    return load_results(table)["path"].tolist()


def test_the_check_prints_what_is_joined_and_writes_nothing(
    make_table: TableMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    table = make_table(PAIRS)
    rows = [(path, "kein Befund") for path in paths_of(table)[:6]]
    labels = office_list(table, [*rows, ("CANARY/absent.png", "Covid"), (rows[0][0], "normal")])
    before = sorted(table.parent.rglob("*"))
    words = ["--labels", str(labels), "--check-labels"]
    for command in (["report", str(table)], ["compare", str(table), str(table)]):
        assert cli.main([*command, *words]) == 0
        out, error = capfd.readouterr()
        assert error == ""
        assert "CSV in UTF-8, separated by semicolons" in out
        assert "path = 'Bilddatei', accession_number = 'Zugangsnummer', label = 'Klasse'" in out
        assert "6 of 7 labels by path" in out
        assert "not joined   line 8:" in out
        assert "rows that repeat an earlier row, which count once: 1" in out
        assert "CANARY" not in out
    assert sorted(table.parent.rglob("*")) == before


def test_the_check_needs_labels(make_table: TableMaker, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(make_table(PAIRS)), "--check-labels"]) == 2
    assert capfd.readouterr().err == "error: --check-labels needs --labels\n"


def test_a_report_says_what_joined_its_labels_and_shows_no_person(
    make_table: TableMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    table = make_table(PAIRS)
    texts = ["0", "1", "2", "3"]
    rows = [(path, texts[n % 4]) for n, path in enumerate(paths_of(table))]
    labels = office_list(table, rows, label="Code")
    page, figures = table.with_name("p.html"), table.with_name("f.json")
    words = ["--labels", str(labels), "--label-column", "code", "--json", str(figures)]
    for name, text in zip(("normal", "covid", "opacity"), "012", strict=True):
        words += ["--map", f"{text}={name}"]
    command = ["report", str(table), "-o", str(page), *words]
    assert cli.main(command) == 1
    error = capfd.readouterr().err
    assert (
        "labels name no class of the model, 1 different texts, as in line 5; the classes are"
        in error
    )
    assert cli.main([*command, "--map", "3=viral pneumonia"]) == 0
    out = capfd.readouterr().out
    assert "truth        a file of labels, joined by path" in out
    assert (
        cli.main(
            [
                "compare",
                str(table),
                str(table),
                *words[:4],
                *words[6:],
                "--map",
                "3=VIRAL_pneumonia",
            ]
        )
        == 0
    )
    written = page.read_text() + figures.read_text()
    assert not [text for text in (error, out, written, capfd.readouterr().out) if "CANARY" in text]


@pytest.mark.parametrize("words", [["--map", "normal"], ["--map", "1="], ["--by", "patient"]])
def test_wrong_options_are_told_with_what_is_right(
    make_table: TableMaker, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert cli.main(["report", str(make_table(PAIRS)), *words]) == 2
    assert words[0] in capfd.readouterr().err
