"""Text as numbers: SentencePiece (arXiv 1808.06226), trained on the captions that a model is trained with."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from clipgen.data.atomic import replacing
from clipgen.errors import UserError

FILE = "text.model"  # SentencePiece's own format, a protocol buffer
SAMPLED = 1_000_000  # captions that a vocabulary is learnt from, at most
UNKNOWN = 0


class Text:
    """Texts → pieces; a piece that the training captions did not have is number 0. `content` are the bytes of a file.

    Upper and lower case are the same.
    """

    def __init__(self, content: bytes):
        self.content = content
        self.pieces = SentencePieceProcessor()
        self.pieces.LoadFromSerializedProto(content)

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int) -> "Text":
        """At most `vocab_size` pieces, merged from pairs (byte-pair encoding) until every word is one piece.

        A unigram model drops words that few captions have, and of short captions it keeps little more than letters:
        sequences of the demo's captions were 30 pieces long instead of 17. The same captions in the same order give the
        same pieces. UserError where fewer pieces than letters are asked.
        """
        written = io.BytesIO()
        try:
            SentencePieceTrainer.Train(
                sentence_iterator=iter(captions), model_writer=written, model_type="bpe", vocab_size=vocab_size,
                hard_vocab_limit=False, character_coverage=1.0, normalization_rule_name="nmt_nfkc_cf",
                input_sentence_size=SAMPLED, shuffle_input_sentence=False, num_threads=1,
                unk_id=UNKNOWN, bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2,
            )  # fmt: skip
        except RuntimeError as problem:
            reason = str(problem).strip().split("\n")[-1]
            raise UserError(
                f"SentencePiece finds no {vocab_size} pieces in the captions ({reason}); change paired.vocab_size"
            ) from problem
        return cls(written.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Text":
        """UserError where the file is missing or something else."""
        path = Path(path)
        try:
            return cls(path.read_bytes())
        except OSError as problem:
            raise UserError(f"{path} cannot be read ({problem}); train with stage=paired again") from problem
        except RuntimeError as problem:
            raise UserError(f"{path} is no model of SentencePiece; export the model again") from problem

    def save(self, path: str | Path) -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(self.content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def __len__(self) -> int:
        return self.pieces.GetPieceSize()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of each text's pieces, 0 … len - 1."""
        return self.pieces.Encode(list(texts), out_type=int)

    def knows(self, pieces: Sequence[int]) -> bool:
        """Whether any of a text's pieces was in the training captions; the blank before a word says nothing."""
        return not {UNKNOWN, self.pieces.PieceToId("▁")}.issuperset(pieces)

    def decode(self, pieces: Sequence[Sequence[int]]) -> list[str]:
        """The texts of pieces."""
        return self.pieces.Decode([list(own) for own in pieces])
