"""Uploads a file by tuspy, in two processes: the second goes on where the first stopped.

    tuspy.py ENDPOINT TOKEN FILE STORAGE NAME stop|finish
"""

import sys

from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage

endpoint, token, file, storage, name, mode = sys.argv[1:]
client = TusClient(endpoint, headers={"Authorization": f"Bearer {token}"})
uploader = client.uploader(
    file,
    chunk_size=2_500_000,
    metadata={"stagingId": name, "blobId": name, "contentType": "application/x-test"},
    retries=30,
    retry_delay=0.1,
    store_url=True,
    url_storage=FileStorage(storage),
    upload_checksum=name == "checked",
)
if mode == "stop":
    uploader.upload(stop_at=5_000_000)
    print(uploader.offset)
else:
    assert uploader.offset == 5_000_000, uploader.offset
    uploader.upload()
    print(uploader.offset)
