"""Options of labels at the commands `report` and `compare`, and what their messages show."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import TableMaker

from cxrbatch import cli
from cxrbatch.errors import LabelError
from cxrbatch.results.columns import PROVENANCE_KEY
from cxrbatch.results.frames import Results
from cxrbatch.results.patient_keys import accession_key, patient_secret, secret_id
from cxrbatch.results.truth import find_truth

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


def test_labels_that_are_lost_are_counted_and_few_that_join_are_a_warning(
    make_table: TableMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    table = make_table(PAIRS)
    paths, page = paths_of(table), table.with_name("p.html")
    commands = [
        ["report", str(table), "-o", str(page), "--overwrite"],
        ["compare", str(table), str(table)],
    ]
    for joined, warns in ((8, False), (3, True)):
        rows = [(path, "normal" if n else "covid") for n, path in enumerate(paths[:joined])]
        labels = office_list(table, [*rows, *((f"größe{n}.png", "normal") for n in range(12))])
        for command in commands:
            assert cli.main([*command, "--labels", str(labels)]) == 0
            out, error = capfd.readouterr()
            assert f"labels       12 of {joined + 12} name no row of the table\n" in out
            assert "labels       read as CSV in Windows-1252, separated by semicolons\n" in out
            assert (
                f"warning: only {joined} of {joined + 12} labels name a row of the table, and only "
                f"{joined} of 8 scored images have a label; --check-labels shows how" in error
            ) == warns


def test_the_check_fails_where_the_run_would(
    make_table: TableMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    table = make_table(PAIRS)
    path = paths_of(table)[0]
    for rows, what in (
        ([(path, "what")], "labels name no class of the model"),
        ([("absent", "normal")], "none of the 1 labels"),
        ([(path, "normal"), (path, "covid")], "contradicts itself"),
    ):
        words = ["report", str(table), "--labels", str(office_list(table, rows)), "--by", "path"]
        errors = []
        for command in (words, [*words, "--check-labels"]):
            assert cli.main(command) == 1
            errors.append(capfd.readouterr().err)
        assert errors[0] == errors[1]
        assert what in errors[1]


def test_accession_numbers_that_join_nothing_or_are_placeholders_are_told(
    make_table: TableMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    secret = patient_secret()
    assert secret is not None
    table = make_table(PAIRS)
    stored = pq.read_table(table)
    keys = pa.array([accession_key(f"00{n + 1}", secret) for n in range(len(stored))])
    place = stored.schema.get_field_index("accession_key")
    made = json.loads(stored.schema.metadata[PROVENANCE_KEY])
    made["patient_secret_id"] = secret_id(secret)
    stored = stored.set_column(place, "accession_key", keys)
    stored = stored.replace_schema_metadata({PROVENANCE_KEY: json.dumps(made)})
    pq.write_table(stored, table)
    labels = pd.DataFrame({"accession": ["001", "002", "0", "n/a"], "label": "normal"})
    truth = find_truth(Results(table), labels)
    assert truth is not None
    assert truth.labels == 2
    note = "rows whose accession is blank or a placeholder, which are not used: 2"
    assert note in truth.notes
    labels["accession"] = ["1", "2", "3", "4"]
    with pytest.raises(LabelError, match="compared as text, with zeros in front"):
        find_truth(Results(table), labels)
