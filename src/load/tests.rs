//! The generator against a real gRPC server.
