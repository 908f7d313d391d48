from experiments.shared.byte_pairs import BytePairs, words

LETTERS = [chr(i) for i in range(ord("a"), ord("z") + 1)]


def toy():
    merges = ["l o", "lo w", "Ġ low", "e r", "low er", "Ã ©"]
    tokens = [*LETTERS, "Ġ", "1", "2", "'", "Ã", "©", "<|end|>", *(m.replace(" ", "") for m in merges)]
    return BytePairs(tokens, merges, ["<|end|>"])


def pieces(text):
    pairs = toy()
    return [pairs.tokens[i] for i in pairs.encode(text)]


def test_pairs_merge_in_the_order_of_the_table():
    # "lower": lo, low, then er (rank 3) before lower (rank 4); " lower": Ġ joins low (rank 2) first, and Ġlow er stays.
    assert pieces("lower") == ["lower"]
    assert pieces(" lower") == ["Ġlow", "er"]
    assert pieces("slow") == ["s", "low"]
    assert pieces("é") == ["Ã©"]  # bytes C3 A9
    assert pieces("12") == ["1", "2"]


def test_a_mark_is_one_token_and_no_part_of_a_word():
    assert pieces("low<|end|>er") == ["low", "<|end|>", "er"]


def test_decoding_gives_the_text_back():
    pairs = toy()
    for text in ("lower slow", "é<|end|>", "  low", ""):
        assert pairs.decode(pairs.encode(text)) == text
    assert pairs.decode([pairs.ids["Ã"]]) == "�"  # half a letter


def test_words_are_those_of_the_pattern():
    assert words("I'll see  you, at 12.5\n\n  x") == [
        *("I", "'ll", " see", " ", " you", ",", " at", " ", "1", "2", ".", "5", "\n\n ", " x"),
    ]
    assert words("x  12") == ["x", "  ", "1", "2"]  # a digit takes no blank
    assert words("naïve 日本 ½\u00a0z ") == ["naïve", " 日本", " ", "½", "\u00a0", "z", " "]
