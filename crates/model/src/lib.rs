//! Names, identities, services, endpoints, locality: the words of the mesh.
