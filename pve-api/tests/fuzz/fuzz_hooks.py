"""What schemathesis does not know by itself: bytes of an upload are sent as they are."""

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def as_it_is(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode()
