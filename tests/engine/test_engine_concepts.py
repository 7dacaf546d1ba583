"""Prompts become numbers of a table in which each stands once."""

from __future__ import annotations

from models import LineModel, pair

from leco_plugin.engine.concepts import distinct_prompts, encode_concepts
from leco_plugin.engine.rows import Row


def test_every_distinct_prompt_is_encoded_once():
    """In order of first use, over all pairs."""
    pairs = [pair(2, 5, 3, 4), pair(2, 3, 5, 4, action="enhance"), pair(5, 5)]
    assert distinct_prompts(pairs) == ["2", "5", "3", "4", ""]


def test_a_concept_knows_its_prompts_by_number():
    """Looked up in the table, the numbers give back what was written."""
    concepts = encode_concepts([pair(2, 5, 3, 4), pair(5, 5, 0, 2)], LineModel())
    numbers = [[c.target, c.positive, c.unconditional, c.neutral] for c in concepts.items]
    assert [concepts.table.rows(row).tolist() for row in numbers] == [[2, 5, 3, 4], [5, 5, 0, 2]]
    assert numbers[1] == [1, 1, 4, 0]


def test_rows_are_equal_where_the_answer_is():
    """Walk, prompt and strength; nothing else counts."""
    assert len({Row(0, 1, 0.0), Row(0, 1, 0.0), Row(1, 1, 0.0), Row(0, 2, 0.0), Row(0, 1, -1.0)}) == 4
