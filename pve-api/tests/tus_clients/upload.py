"""Uploads a file with tuspy: upload.py ENDPOINT FILE METADATA-AS-JSON."""

import json
import os
import sys

from tusclient.client import TusClient

endpoint, path, metadata = sys.argv[1:]
uploader = TusClient(endpoint).uploader(
    path,
    chunk_size=os.path.getsize(path),
    metadata=json.loads(metadata),
    retries=100,
    retry_delay=0.2,
)
uploader.upload()
print(uploader.url)
