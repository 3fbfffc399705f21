"""Letters come out right or the file is refused; binary files are named as what they are."""

from pathlib import Path

import pytest

from knowledge.transcripts import TranscriptError, parse

GERMAN = (
    "Hallo zusammen, heute zeige ich euch, wie ihr größere Bilder erzeugt. Zuerst öffnen wir das Menü und wählen "
    "das Modell aus. Danach müssen wir die Auflösung ändern, damit später keine Fehler auftreten."
)
ICELANDIC = (
    "Halló öll, í dag ætla ég að sýna ykkur hvernig á að búa til stærri myndir. Fyrst opnum við valmyndina og "
    "veljum líkanið. Síðan þurfum við að breyta upplausninni svo að það verði engar villur."
)
CHINESE = (
    "大家好，今天我要介绍如何制作更大的图片。首先打开菜单，选择模型。然后必须改变分辨率，这样后面才不会出错。"
    "当然这是可以的，但是对初学者来说比较困难。最后我们来检查采样器的设置。"
)
JAPANESE = "皆さんこんにちは、今日は大きな画像を作る方法を紹介します。まずメニューを開いて、モデルを選びます。"
HUNGARIAN = (
    "Sziasztok, ma megmutatom, hogyan lehet nagyobb képeket készíteni. Először megnyitjuk a menüt és kiválasztjuk "
    "a modellt. Utána meg kell változtatni a felbontást, hogy később ne legyenek hibák."
)
ROMANIAN = (
    "Salut tuturor, astăzi vă arăt cum să creaţi imagini mai mari. Mai întâi deschidem meniul şi alegem modelul. "
    "Apoi trebuie să schimbăm rezoluţia, pentru ca mai târziu să nu apară erori."
)
TURKISH = (
    "Herkese merhaba, bugün size daha büyük resimlerin nasıl oluşturulduğunu göstereceğim. Önce menüyü açıyoruz ve "
    "modeli seçiyoruz. Daha sonra çözünürlüğü değiştirmemiz gerekiyor, böylece hata olmaz."
)
POLISH = "Cześć wszystkim, dzisiaj pokażę wam, jak tworzyć większe obrazy. Najpierw otwieramy menu i wybieramy model."
RUSSIAN = "Привет всем, сегодня я покажу, как создавать большие изображения. Сначала открываем меню и модель."
KOREAN = "여러분 안녕하세요 오늘은 더 큰 이미지를 만드는 방법을 보여 드리겠습니다. 먼저 메뉴를 열고 모델을 선택합니다."
TAIWANESE = "大家好，今天我要介紹如何製作更大的圖片。首先打開選單，選擇模型。然後必須改變解析度，這樣後面才不會出錯。"


def subrip(text: str) -> str:
    return f"1\n00:00:01,000 --> 00:00:09,000\n{text}\n"


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8-sig", b""),
        ("utf-16", b""),
        ("utf-16-le", b"\xff\xfe"),
        ("utf-16-be", b"\xfe\xff"),
        ("utf-32", b""),
    ],
)
def test_unicode_is_read_by_its_mark(encoding: str, mark: bytes) -> None:
    data = mark + subrip("Größe 大家好 🎨").encode(encoding)
    assert parse(data, name="talk.srt").text == "Größe 大家好 🎨"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "cp1252"),
        (GERMAN, "latin-1"),
        (ICELANDIC, "cp1252"),
        (CHINESE, "gb18030"),
        (CHINESE, "gb2312"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "cp932"),
    ],
)
def test_older_encodings_are_read_where_the_text_proves_them(text: str, encoding: str) -> None:
    assert parse(subrip(text).encode(encoding), name="talk.srt").text == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (HUNGARIAN, "cp1250"),
        (ROMANIAN, "cp1250"),
        (TURKISH, "cp1254"),
        (POLISH, "cp1250"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (KOREAN, "cp949"),
        (TAIWANESE, "big5"),
        (JAPANESE, "euc_jp"),
        (GERMAN, "cp850"),
        (GERMAN, "mac_roman"),
        ("Mon café est prêt", "latin-1"),
    ],
)
def test_an_encoding_that_is_not_certain_is_refused(text: str, encoding: str) -> None:
    """Each of these also decodes as one of the encodings that we read, into wrong letters."""
    with pytest.raises(TranscriptError, match=r"^talk.srt, line 3: byte 0x.. at offset \d+ is not UTF-8"):
        parse(subrip(text).encode(encoding), name="talk.srt")


def test_damaged_utf8_is_not_taken_for_another_encoding() -> None:
    good = subrip(GERMAN).encode()
    data = good[: good.index("ö".encode())] + b"\xf6" + good[good.index("ö".encode()) + 2 :]
    with pytest.raises(TranscriptError, match=r"^talk.srt, line 3: byte 0xF6 at offset \d+ is not UTF-8"):
        parse(data, name="talk.srt")


def test_the_offset_that_an_error_names_is_that_of_the_byte() -> None:
    data = b"WEBVTT\r\n\r\n00:01.000 --> 00:02.000\r\nhi \xff\r\n"
    with pytest.raises(TranscriptError, match=f"line 4: byte 0xFF at offset {data.index(0xFF)} "):
        parse(data, name="talk.vtt")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf16_and_utf32_without_a_mark_are_not_guessed(encoding: str) -> None:
    with pytest.raises(TranscriptError, match=r"^talk.srt, line 1: this is a binary file .* byte order mark"):
        parse(subrip("hello").encode(encoding), name="talk.srt")


def test_cut_utf16_names_the_offset() -> None:
    data = "WEBVTT\n\n00:01.000 --> 00:02.000\nhi".encode("utf-16")[:-1]
    with pytest.raises(TranscriptError, match=rf"line 4: the bytes at offset {len(data) - 1} are not UTF-16-LE"):
        parse(data, name="talk.vtt")


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00", "MP4 or MOV video"),
        (b"\x1a\x45\xdf\xa3\x01\x00\x00\x00", "Matroska or WebM video"),
        (b"PK\x03\x04\x14\x00\x00\x00", "ZIP archive or Office document"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "PNG image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "JPEG image"),
        (b"\x1f\x8b\x08\x00\x00", "gzip archive"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF document"),
        (b"ID3\x04\x00\x00\x00", "MP3 audio"),
        (b"WEBVTT\n\n\x00", "control byte 0x00 at offset 8"),
    ],
)
@pytest.mark.parametrize("name", ["talk.vtt", "talk.json", "talk.txt", "talk.mp4"])
def test_a_binary_file_is_named_as_one(head: bytes, kind: str, name: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        parse(head + bytes(range(256)) * 4, name=name)
    assert str(caught.value).startswith(f"{name}, line ")
    assert f"this is a binary file ({kind}" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x01\x02\x03" * 50 + b"text", "this is a binary file (control byte 0x01 at offset 0)"),
        (b"{\\rtf1\\ansi hello}", "this is an RTF document"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "this is a web page"),
        (b"\n\n <HTML lang='en'><body>Sign in</body></html>", "this is a web page"),
    ],
)
@pytest.mark.parametrize("name", ["talk.vtt", "talk.srt", "talk.json", "talk.txt", "talk"])
def test_other_kinds_of_text_are_named_as_what_they_are(data: bytes, problem: str, name: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        parse(data, name=name)
    assert str(caught.value).startswith(f"{name}, line 1: {problem}")


def test_stray_control_characters_are_dropped() -> None:
    data = subrip("one\x0ctwo\x1b three\ufeff four\u200b!" + " and more words to be sure" * 20).encode()
    assert parse(data, name="talk.srt").text.startswith("one two three four! and")


def test_real_french_captions_read_the_same_in_an_older_encoding(shared: Path) -> None:
    path = shared / "transcripts/hf-course/01_the-pipeline-function.fr.srt"
    text = path.read_text(encoding="utf-8-sig")
    assert parse(text.encode("cp1252"), name=path.name) == parse(text.encode(), name=path.name)


def test_real_chinese_captions_read_the_same_in_an_older_encoding(shared: Path) -> None:
    path = shared / "transcripts/hf-course/05_transformer-models-encoders.zh-CN.srt"
    text = path.read_text(encoding="utf-8-sig")
    assert parse(text.encode("gb18030"), name=path.name) == parse(text.encode(), name=path.name)
