"""img2dataset's resizer and writer over a folder, once for each line read; run by the Python of its own environment.

Its downloader, which starts from URLs, is left out: what is timed is what it does to each image once that is here.
`python img2dataset_rounds.py IMAGES OUT SIZE`; a line read is `420` (its default) or `444`, chroma at full size as ours
has it. Each round prints its seconds of wall and of CPU time.
"""

import io
import os
import sys
import time

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import cv2
import pyarrow
from img2dataset.resizer import Resizer
from img2dataset.writer import WebDatasetSampleWriter

TEXTS = ("url", "key", "status", "error_message")
SIZES = ("width", "height", "original_width", "original_height")
SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in TEXTS] + [(name, pyarrow.int32()) for name in SIZES])


def prepare(images: str, out: str, size: int, chroma: str) -> None:
    resizer = Resizer(size, "center_crop", False)  # quality 95, as ours
    if chroma == "444":
        resizer.encode_params += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    writer = WebDatasetSampleWriter(0, out, False, 5, SCHEMA, "jpg")
    for number, name in enumerate(sorted(os.listdir(images))):
        with open(f"{images}/{name}", "rb") as file:
            stream = io.BytesIO(file.read())
        data, *sizes, error = resizer(stream)
        if error is not None:
            raise SystemExit(f"{name}: {error}")
        key = f"{number:09d}"
        meta = {"url": name, "key": key, "status": "success", "error_message": None}
        writer.write(data, key, None, meta | dict(zip(SIZES, sizes, strict=False)))
    writer.close()


if __name__ == "__main__":
    images, out, size = sys.argv[1:]
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        prepare(images, out, int(size), line.strip())
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
