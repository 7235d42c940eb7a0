NUMBER = {{ STDID }}
{% if MODEWS == 'WKSHP' %}
GUIDED = True
{% endif %}
