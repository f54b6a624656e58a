"""Words of labels: what names a thing, and what does not."""

from compressor.data.words import content_words, words_of


def test_only_words_that_name_a_thing_are_kept_in_the_singular():
    assert content_words("Woman with two red apples 02") == {"two", "apple"}
    assert content_words("berries, boxes and glasses") == {"berry", "box", "glass"}
    assert content_words("bus on a tennis court") == {"bus", "tennis", "court"}
    assert not content_words("circle-plus")


def test_words_of_labels_are_those_of_all():
    assert words_of(["red apple", "two keys"]) == {"apple", "two", "key"}
    assert words_of([]) == set()
