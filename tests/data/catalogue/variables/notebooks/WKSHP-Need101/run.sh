echo {% if %}
