"""The captioner's Transformer: its sequence, what it shares with that of pictures, its cache and its words."""

from functools import partial

import pytest
import torch

from clipgen.paired.captioner import CaptionTransformer, caption_losses, write
from clipgen.paired.layout import Layout
from clipgen.paired.model import PairedTransformer
from clipgen.transformer import blocks
from clipgen.transformer.packed import prepared

K, PIECES, LENGTH, L = 16, 10, 6, 6
LAYOUT = Layout(K, PIECES, LENGTH)
TEXTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1]]
COGVIEW = dict(style="gpt2", sandwich=True, pb_relax=True, shrink_gradient=0.1)
PAD, ROI1, BASE, BOI1, EOI1 = (LAYOUT.command(name) for name in ("PAD", "ROI1", "BASE", "BOI1", "EOI1"))


@pytest.fixture
def network(network):
    return partial(network, kind=CaptionTransformer)


def inputs(rows: int = len(TEXTS)) -> tuple[torch.Tensor, torch.Tensor]:
    tokens_BL = torch.randint(0, K, (rows, L), generator=torch.Generator().manual_seed(1))
    return tokens_BL, LAYOUT.captions([TEXTS[i % len(TEXTS)] for i in range(rows)])


def test_a_caption_ends_in_base_and_padding_stands_behind():
    assert LAYOUT.captions([[1, 2], [3]]).tolist() == [
        [ROI1, K + 1, K + 2, BASE, PAD, PAD, PAD, PAD],
        [ROI1, K + 3, BASE, PAD, PAD, PAD, PAD, PAD],
    ]
    assert LAYOUT.captions([[1, 2, 3, 4, 5, 6, 7, 8]]).tolist() == [[ROI1, *range(K + 1, K + 7), BASE]]


def test_the_weights_are_those_of_a_model_of_pictures(network):
    made = network()
    made.load_state_dict(network(kind=PairedTransformer).state_dict())
    assert len(made.cos_TK) == 2 + L + LENGTH + 2  # [BASE] [BOI1] image [EOI1] [ROI1] text
    turned = (made.sin_TK.abs().sum(1) > 0).tolist()
    assert turned == [False] * 2 + [True] * L + [False] * (LENGTH + 2)
    image = made._positions(0, len(made.cos_TK), None)[0]
    torch.testing.assert_close(image[1 : 1 + L], made.place_LD)
    assert not image[0].any() and not image[1 + L :].any()


@pytest.mark.parametrize("plain", [True, False])  # or torch's fused kernel, as on a GPU
@pytest.mark.parametrize("changes", [{}, COGVIEW])
def test_the_cache_gives_the_logits_of_the_whole(network, monkeypatch, changes, plain):
    monkeypatch.setattr(blocks, "PLAIN_ATTENTION_UP_TO", 512 if plain else 0)
    model, (tokens_BL, text_BS) = network(**changes), inputs()
    wanted = model(tokens_BL, text_BS)
    assert wanted.shape == (len(TEXTS), LENGTH + 1, PIECES + 5)
    cache = model.new_cache(len(TEXTS))
    x_BSD = torch.cat([model.image(tokens_BL), model.text(text_BS[:, :1])], 1)
    for place in range(LENGTH + 1):
        torch.testing.assert_close(model.step(x_BSD, cache), wanted[:, place], atol=1e-5, rtol=1e-5)
        x_BSD = model.text(text_BS[:, place + 1 : place + 2], place + 1)


def test_the_whole_image_is_seen_and_no_word_that_is_to_come(network):
    model, (tokens_BL, text_BS) = network(), inputs()
    wanted = model(tokens_BL, text_BS)
    for place in range(L):
        changed_BL = tokens_BL.clone()
        changed_BL[:, place] = (changed_BL[:, place] + 1) % K
        assert not torch.allclose(model(changed_BL, text_BS)[:, 0], wanted[:, 0])
    changed_BS = text_BS.clone()
    changed_BS[:, 3] = K + 9
    found = model(tokens_BL, changed_BS)
    assert torch.equal(found[:, :3], wanted[:, :3]) and not torch.allclose(found[:, 3], wanted[:, 3])


def test_caption_loss_is_of_the_pieces_alone(network):
    model, (tokens_BL, text_BS) = network(), inputs()
    losses_B = caption_losses(model, tokens_BL, text_BS)
    log_p = model(tokens_BL, text_BS).log_softmax(-1)
    for i, pieces in enumerate(TEXTS):
        wanted = -sum(log_p[i, place, piece] for place, piece in enumerate(pieces)) / len(pieces)
        assert losses_B[i].item() == pytest.approx(wanted.item(), abs=1e-5)
    alone_B = [caption_losses(prepared(model), tokens_BL[i : i + 1], text_BS[i : i + 1])[0] for i in range(3)]
    assert torch.equal(caption_losses(prepared(model), tokens_BL, text_BS), torch.stack(alone_B))


def test_the_likeliest_words_are_written_until_base(network):
    model, (tokens_BL, _) = network(), inputs(40)
    written = write(model, tokens_BL, range(40))
    assert {len(own) for own in written} > {1} and all(1 <= len(own) <= LENGTH for own in written)
    assert all(0 < piece < PIECES for own in written for piece in own)  # no unknown and no command
    allowed = torch.tensor([*range(1, PIECES), BASE - K])
    for row, own in enumerate(written):
        log_p = model(tokens_BL[row : row + 1], LAYOUT.captions([own]))[0]
        for place, piece in enumerate([*own, BASE - K][:LENGTH]):
            among = allowed[:-1] if place == 0 else allowed
            assert among[log_p[place, among].argmax()] == piece


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_caption_does_not_depend_on_its_batch_mates(network, temperature):
    model, (tokens_BL, _) = prepared(network(**COGVIEW)), inputs(8)
    together = write(model, tokens_BL, range(8), temperature)
    assert [write(model, tokens_BL[i : i + 1], [i], temperature)[0] for i in range(8)] == together
    other = write(model, tokens_BL, range(8, 16), temperature)
    assert (other == together) is (temperature == 0)
