"""The laboratory's profile: defaults, overrides, and every wrong key named with its line."""

import tomllib

import pytest

from cbctool.errors import ExitCode, UsageError
from cbctool.hematology.profile import Profile, describe_profile, load_profile
from cbctool.records import CellClass

GOOD = """\
[lab]
name = "Spital Süd"
logo = "logo.png"

[report]
page_size = "Letter"
outputs = ["pdf", "hl7"]

[adequacy]
limited = 25

[platelets]
estimate_factor = 5

[flags]
unclassified_percent = 20
off = ["smudge_cells"]

[[reference]]
age_to_years = 12
[reference.percent]
neutrophil = [20, 60]

[[reference]]
age_from_years = 12
[reference.percent]
neutrophil = [40, 80]
[reference.absolute_10e9_per_l]
neutrophil = [1.8, 7.7]
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="lab.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_no_file_gives_the_defaults():
    profile = load_profile(None)
    assert profile == Profile()
    adult = profile.band(None)
    assert adult.percent[CellClass.NEUTROPHIL] == (40, 80)
    assert adult.absolute_10e9_per_l[CellClass.LYMPHOCYTE] == (1.0, 4.0)
    assert profile.band(50.0) is adult
    assert profile.band(3.0) is None


def test_a_whole_profile(write, tmp_path):
    (tmp_path / "logo.png").write_bytes(b"")
    profile = load_profile(write(GOOD))
    assert profile.lab.name == "Spital Süd"
    assert profile.lab.logo == tmp_path / "logo.png"
    assert profile.report.page_size == "Letter"
    assert profile.report.outputs == ("pdf", "hl7")
    assert (profile.adequacy.limited, profile.adequacy.reportable) == (25, 100)
    assert profile.platelets.estimate_factor == 5
    assert profile.flags.unclassified_percent == 20
    assert profile.band(3.0).percent[CellClass.NEUTROPHIL] == (20, 60)
    assert profile.band(12.0).absolute_10e9_per_l[CellClass.NEUTROPHIL] == (1.8, 7.7)
    assert profile.band(None).percent[CellClass.NEUTROPHIL] == (40, 80)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[lab]\nnmae = 'x'\n", 2, "lab.nmae: no such key"),
        ("\n\n[flgs]\nx = 1\n", 3, "flgs: no such key"),
        ("[lab]\nname = 'x'\n[adequacy]\n# so few\nlimited = 'many'\n", 5, "adequacy.limited: Input should be"),
        ("[adequacy]\nlimited = 0\n", 2, "adequacy.limited: Input should be greater"),
        ("[adequacy]\nlimited = 300\n", 1, "adequacy: limited, reportable and preferred must ascend"),
        ("adequacy.limited = -1\n", 1, "adequacy.limited"),
        ("[platelets]\nestimate_factor = nan\n", 2, "finite number"),
        ("[platelets]\nper_1000_red_cells = [30, 20]\n", 2, "[30, 20] is not an interval"),
        ("[report]\npage_size = 'A3'\n", 2, "'A4' or 'Letter'"),
        ("[report]\noutputs = [\n  'pdf',\n  'docx',\n]\n", 2, "report.outputs.1"),
        ("[flags]\noff = ['blast']\n", 2, "no such flag: blast"),
        ("[[reference]]\n[reference.percent]\nneutrophil = [80, 40]\n", 2, "not an interval"),
        ("[[reference]]\n[reference.percent]\nneutrophil = [40, 120]\n", 2, "more than 100 percent"),
        ("[[reference]]\n[reference.percent]\nneutrophils = [40, 80]\n", 3, "reference.0.percent.neutrophils"),
        ("[[reference]]\n[reference.percent]\nplatelet = [1, 2]\n", 2, "platelet is not in the differential"),
        (
            "[[reference]]\nage_to_years = 9\n[[reference]]\nage_from_years = 9\n[reference.percent]\nbasophil = 3\n",
            6,
            "reference.1.percent.basophil",
        ),
        ("[[reference]]\nage_from_years = 20\nage_to_years = 10\n", 1, "age_to_years must be above"),
        ("[[reference]]\n[[reference]]\nage_from_years = 9\n", 1, "two age bands hold at 9 years"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(write, text, line, said):
    path = write(text)
    with pytest.raises(UsageError) as error:
        load_profile(path)
    assert f"line {line}: " in error.value.message
    assert said in error.value.message
    assert str(path) in error.value.message
    assert error.value.exit_code is ExitCode.USAGE


def test_all_faults_are_named_at_once(write):
    with pytest.raises(UsageError) as error:
        load_profile(write("[lab]\nnmae = 'x'\n[adequacy]\nlimited = 'many'\n"))
    assert "line 2: lab.nmae" in error.value.message
    assert "line 4: adequacy.limited" in error.value.message


def test_a_missing_logo_is_found_before_the_night_of_work(write):
    with pytest.raises(UsageError, match=r"line 2: lab\.logo: no file"):
        load_profile(write("[lab]\nlogo = 'none.png'\n"))


@pytest.mark.parametrize("content", [b"[lab\n", b"\xff\xfe\x00", b"name = "])
def test_what_is_no_toml_is_refused(tmp_path, content):
    path = tmp_path / "lab.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"lab\.toml"):
        load_profile(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_profile(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        load_profile(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "lab.toml"
    path.write_bytes(b"\xef\xbb\xbf[lab]\nname = 'x'\n")
    assert load_profile(path).lab.name == "x"


def test_the_description_can_be_loaded_again(write, tmp_path):
    (tmp_path / "logo.png").write_bytes(b"")
    for profile in (Profile(), load_profile(write(GOOD))):
        assert load_profile(write(describe_profile(profile), "again.toml")) == profile


def test_the_description_escapes_and_names_sources(write):
    profile = load_profile(write('[lab]\nname = "a \\"quoted\\" \\\\ name \\u007f"\n'))
    text = describe_profile(profile)
    assert tomllib.loads(text)["lab"]["name"] == 'a "quoted" \\ name \x7f'
    assert "CLSI H20" in text
    assert "15 UK laboratories" in text
