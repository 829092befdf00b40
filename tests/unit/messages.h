/* A valid message of every kind of the control protocol, on the heap, to be changed at will. One thread. */
#ifndef FERRYT_MESSAGES_H
#define FERRYT_MESSAGES_H

#include "proto.h"

#define FERRYT_BODY_FIRST FARFERRY__ENVELOPE__BODY_ERROR
#define FERRYT_BODY_LAST  FARFERRY__ENVELOPE__BODY_INJECT

/* Free with ferryi_envelope_free. Never NULL. */
Farferry__Envelope *ferryt_message(Farferry__Envelope__BodyCase body);

/* Who takes that message; for a keep-alive, which both take, the server. */
enum ferryi_role ferryt_receiver(Farferry__Envelope__BodyCase body);

/* Replaces a string field of a message. */
void ferryt_set_text(char **field, const char *text);
/* Gives a bytes field that many bytes. */
void ferryt_set_len(ProtobufCBinaryData *field, size_t len);

#endif
