"""What people and machines read.

Each imports only what stands before it: svg < words < document < planning | tables | figures | pictures <
conclusions | contrast < page | github.
"""
