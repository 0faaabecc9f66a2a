"""What comes in over /v1: the private API, the OpenAI front door, and their description."""
