/* Frames that the server sends. See reply.h. */
#include "reply.h"

#include <stdarg.h>
#include <stdio.h>

#include "log.h"

void ferryi_reply_encode(struct ferryi_reply *reply, const Farferry__Envelope *envelope)
{
	int rc = ferryi_frame_encode(envelope, &reply->bytes, &reply->len);

	if (!rc)
		return;
	ferryi_error("reply %s: encoding failed: %s", ferryi_body_name(envelope->body_case),
		     ferryi_strerror(rc));
	*reply = (struct ferryi_reply){0};
	if (envelope->body_case != FARFERRY__ENVELOPE__BODY_ERROR)
		ferryi_reply_error(reply, envelope->request_id, FARFERRY__CODE__CODE_INTERNAL,
				   "the server could not encode its reply");
}

void ferryi_reply_error(struct ferryi_reply *reply, uint64_t request_id, Farferry__Code code, const char *fmt,
			...)
{
	Farferry__Error error = FARFERRY__ERROR__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	char text[FERRYI_MAX_TEXT + 1];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	error.code = code;
	error.text = text;
	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ERROR;
	envelope.error = &error;
	ferryi_reply_encode(reply, &envelope);
}

void ferryi_reply_done(struct ferryi_reply *reply, uint64_t request_id)
{
	Farferry__DoneReply done = FARFERRY__DONE_REPLY__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;

	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_DONE;
	envelope.done = &done;
	ferryi_reply_encode(reply, &envelope);
}
