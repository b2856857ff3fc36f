"""The S3 server of the sources' tests, here too."""

from tests.data_pipeline.conftest import s3_server as s3_server  # the fixture
