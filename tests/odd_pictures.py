"""Images at the limits of rendering, made one by one."""

import numpy as np

#: Pairs of the side and of the short side before the crop.
SIZES = [(224, 256), (224, 224), (32, 37), (97, 111)]

SHAPES = [
    (1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (2, 3), (3, 2), (5, 5), (7, 3), (8, 8), (28, 28),
    (32, 32), (37, 37), (31, 33), (37, 38), (36, 37), (96, 97), (97, 97), (98, 97), (110, 111),
    (111, 111), (112, 111), (223, 223), (223, 224), (224, 224), (225, 224), (224, 225), (224, 300),
    (255, 255), (255, 256), (256, 255), (256, 256), (257, 256), (256, 257), (257, 257), (256, 341),
    (341, 256), (448, 448), (512, 512), (480, 640), (640, 480), (333, 251), (700, 501), (501, 700),
    (60, 240), (60, 241), (60, 242), (61, 243), (241, 60), (100, 1000), (1000, 100), (3, 1001),
    (1001, 3), (1, 4000), (4001, 1), (1, 65_535), (65_535, 1), (2, 33_333),
]  # fmt: skip


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def black_and_white(height, width):
    return np.where(noise(height, width, seed=1) > 127, np.uint8(255), np.uint8(0))


def checks(height, width, side=1):
    """Return a checkerboard, at whose edges the bicubic filter leaves the range of a byte."""
    rows, columns = np.mgrid[0:height, 0:width] // side
    board = ((rows + columns) % 2 * 255).astype(np.uint8)
    return np.dstack([board, 255 - board, board])


def framed(height, width):
    """Return black with a white frame of one pixel."""
    image = np.zeros((height, width, 3), np.uint8)
    image[[0, -1]] = image[:, [0, -1]] = 255
    return image


def odd_pictures():
    """Yield names and images, over a hundred."""
    for height, width in SHAPES:
        yield f"noise of {height} x {width}", noise(height, width)
        if height * width < 100_000:
            yield f"black and white of {height} x {width}", black_and_white(height, width)
    for side in (1, 2, 3, 8):
        for height, width in ((28, 28), (200, 300), (300, 200), (257, 256)):
            yield f"checks of {side} in {height} x {width}", checks(height, width, side)
    for height, width in ((3, 3), (28, 28), (255, 340), (600, 400)):
        yield f"a frame of {height} x {width}", framed(height, width)
    for value in (0, 1, 128, 254, 255):
        yield f"all {value}", np.full((150, 170, 3), value, np.uint8)
