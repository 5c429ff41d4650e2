"""timm's records: each one can be read, or the error says why not."""

from regraft.backbones import timm_models
from regraft.errors import BackboneError


def test_every_record_of_timm_can_be_read_or_says_why_not():
    # Hundreds of records differ in unexpected ways; none may end in a traceback.
    refused = []
    for name in timm_models.FAMILY.names():
        try:
            preprocess = timm_models.FAMILY.record(name, "none").preprocess
        except BackboneError as error:
            refused.append(str(error))
        else:
            assert preprocess.resize_size >= preprocess.image_size > 0
    assert len(refused) < 20
    assert all("only square colour images" in message for message in refused)
