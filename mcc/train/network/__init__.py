"""The same training on links of several speeds: ranks in network namespaces of this machine, joined by shaped links."""
