$Lab = {{ STDID }}
