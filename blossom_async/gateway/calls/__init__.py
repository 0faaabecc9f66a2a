"""The calls under /v1: the private API, the OpenAI front door, and the OpenAPI document."""
