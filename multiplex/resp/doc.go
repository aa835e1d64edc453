// Package resp reads the wire protocol of Redis and Valkey, RESP2 and RESP3, as far as a proxy has to: it finds
// where a command ends and which arguments it has ([Reader]), and where a reply ends ([Framer]). It decodes
// nothing else: the bytes that came in are the bytes that go out.
//
// Both are incremental. Input may be split anywhere, and is scanned once.
//
// The limits and the error texts are Redis's own (networking.c: processInlineBuffer, processMultibulkBuffer).
package resp
